"""The update of whole arrays with every codec, for NumPy or torch.

Blocks and noise follow the order of elements in memory. An array with another order of axes is brought into that order
by permuting its axes, which copies nothing.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradstep.engines.statistics import Tally, add_rows, count_rows, empty_table
from gradstep.rules import State
from gradstep.rules.base import Array
from gradstep.storage.codecs import Codec
from gradstep.storage.elements import draw_noise, sequence_position, split_key, to_bits
from gradstep.storage.policy import UpdateSpec


def build_tally(positions: Sequence[int], rows: NDArray[np.float64], owners: NDArray[np.int64]) -> Tally:
    """Add up the statistics of single parameters, or of their parts, for their owners.

    Args:
        positions: (m,) the position in the batch of the parameter of each row.
        rows: (m, len(STATISTICS)).
        owners: (n,) as in :class:`~gradstep.engines.base.Batch`.
    """
    table = empty_table(count_rows(owners))
    if positions:
        add_rows(table, owners[list(positions)], rows)
    return Tally.of(table)


def apply_rule(spec: UpdateSpec, c: Any, old: Sequence[Array]) -> list[Array]:
    """Return the new parameter and slots.

    Args:
        spec: the update to compute.
        c: the coefficients, by name.
        old: the parameter, its gradient, and every slot.
    """
    p, g, *slots = old
    state = State(**dict(zip(spec.slots, slots, strict=True)))
    return [spec.rule.update(p, g, state, c), *(getattr(state, name) for name in spec.slots)]


class Arrays(ABC):
    """The operations that NumPy and torch spell differently, and the update that is built from them."""

    @abstractmethod
    def strides(self, a: Array) -> Sequence[int]:
        """Return the stride of each axis."""

    @abstractmethod
    def permute(self, a: Array, axes: Sequence[int]) -> Array:
        """Return a view with the axes in another order."""

    @abstractmethod
    def number_elements(self, like: Array, start: int = 0) -> Array:
        """Return (n,) int32 ``start``, ``start + 1``, …, one for each element of ``like``."""

    @abstractmethod
    def repeat(self, a: Array, times: int) -> Array:
        """Return (n · times,) with each element of a flat array (n,) repeated ``times`` times in a row."""

    @abstractmethod
    def chunk_maxima(self, a: Array, every: int) -> Array:
        """Return (⌈n / every⌉,) the maximum of each ``every`` elements of a flat array (n,) of non-negative int32."""

    @abstractmethod
    def cast(self, x: Array, dtype: type[np.floating[Any]]) -> Array:
        """Return the numbers as float32 or float64."""

    @abstractmethod
    def join_numbers(self, numbers: Sequence[Array]) -> Array:
        """Return (n,) float64 numbers; each is an array of one element, or a Python float, but the first."""

    @abstractmethod
    def write(self, places: Sequence[Array], codes: Sequence[Array]) -> None:
        """Write each code into its place; a code may share memory with a place."""

    # -- values ---------------------------------------------------------------------------------------------------

    def update(
        self, spec: UpdateSpec, c: Any, key: int, columns: Sequence[Array], *, watched: bool, start: int = 0
    ) -> Array | None:
        """Update one parameter and its slots in place.

        Args:
            spec: the update to compute.
            c: the coefficients, by name.
            key: the key of the parameter's noise at this step.
            columns: the array of every field.
            watched: whether to collect statistics.
            start: the number of the first element within the parameter, if these are a part of it.

        Returns:
            (len(STATISTICS),) the statistics, if they are collected.
        """
        old = self.decode(spec, c, columns)
        new = apply_rule(spec, c, old)
        numbers = self.number_elements(columns[1], start) if spec.noise else None
        halves = split_key(key) if spec.noise else (0, 0)  # torch.compile cannot trace it, and compiles no noise
        return self.store(spec, halves, columns, old, new, numbers, watched=watched)

    def decode(self, spec: UpdateSpec, c: Any, columns: Sequence[Array]) -> list[Array]:
        """Return what a rule receives: the parameter, the gradient times its coefficient, and every slot.

        Args:
            spec, c, columns: as in :meth:`update`.
        """
        g, p, *slots = self.decode_columns(spec, columns)
        return [p, g * c.gradient, *slots]

    def decode_columns(self, spec: UpdateSpec, columns: Sequence[Array]) -> list[Array]:
        """Return the values of the gradient, the parameter and every slot, in the arithmetic of the rule.

        Args:
            spec, columns: as in :meth:`update`.
        """
        places = spec.split_by_codec(columns)
        return [
            self.cast(self.value(codec, fields, columns[1]), spec.arithmetic)
            for codec, fields in zip(spec.codecs, places, strict=True)
        ]

    def store(
        self,
        spec: UpdateSpec,
        key: tuple[Array, Array],
        columns: Sequence[Array],
        old: Sequence[Array],
        new: Sequence[Array],
        numbers: Array | None,
        *,
        watched: bool,
    ) -> Array | None:
        """Encode and write the new parameter and slots.

        Args:
            spec, columns, watched: as in :meth:`update`.
            key: the low and the high half of the key of the noise: two numbers, or two arrays (n,) int32 for elements
                of several parameters.
            old: the result of :meth:`decode`.
            new: the new parameter and slots.
            numbers: (n,) int32 the number of every element within the whole parameter, if something is rounded at
                random.

        Returns:
            (len(STATISTICS),) the statistics, if they are collected.
        """
        places = spec.split_by_codec(columns)
        random: dict[int, Array] = {}
        codes: list[Array] = []
        for j, (x, fields) in enumerate(zip(new, places[1:], strict=True), 1):
            noise = None
            if j in spec.noise:
                stream = spec.noise[j]
                if stream not in random:
                    random[stream] = draw_noise(sequence_position(numbers, key[0]), key[1], stream)
                noise = self._unflatten(random[stream], self._template(spec.codecs[j], fields, columns[1]))
            codes += self.codes(spec.codecs[j], x, noise, self._template(spec.codecs[j], fields, columns[1]))
        statistics = self._statistics(spec, old[1], old[0], new) if watched else None
        self.write(columns[1:], codes)
        return statistics

    def _statistics(self, spec: UpdateSpec, g: Array, p: Array, new: Sequence[Array]) -> Array:
        """Return (len(STATISTICS),) of the gradient, the old parameter, and the new parameter and slots."""
        double = np.float64
        stored = spec.parameter.expected_value(new[0])
        second = dict(zip(spec.slots, new[1:], strict=True)).get(spec.second)
        squares = (
            (self.cast(x, double) ** 2).sum() for x in (g, stored, self.cast(stored, double) - self.cast(p, double))
        )
        range_of_second = (math.nan, math.nan) if second is None else (second.min(), second.max())
        return self.join_numbers([*squares, ((stored == p) & (g != 0.0)).sum(), *range_of_second])

    def value(self, codec: Codec, fields: Sequence[Array], parameter: Array) -> Array:
        """Decode the value that is stored in these arrays, one per field of the codec.

        Args:
            codec: the codec.
            fields: the arrays.
            parameter: an array of the value's shape and order in memory, which packed codes do not have.
        """
        like = self._template(codec, fields, parameter)
        numbers = [f.element.decode(a) for f, a in zip(codec.fields, fields, strict=True)]
        if codec.packed:
            numbers[0] = self._unflatten(numbers[0][: len(self.number_elements(like))], like)
        if codec.block > 1:
            numbers[-1] = self._expand_scales(codec, numbers[-1], like)
        return codec.join(*numbers)

    def codes(self, codec: Codec, x: Array, noise: Array, like: Array) -> list[Array]:
        """Encode a value: return one array per field of the codec, without writing.

        Args:
            codec: the codec.
            x: the value.
            noise: int32 in the shape of ``x``, uniform on 0 … 2²⁰ − 1, if the codec is noisy.
            like: an array of the same shape; blocks are cut in its order in memory.
        """
        x = self.cast(x, codec.arithmetic)
        if codec.block == 1:
            return list(codec.split(x, noise))
        magnitude = to_bits(x) & 0x7FFFFFFF  # ordered as the numbers are; NaN is above infinity
        scale = codec.scale(self.chunk_maxima(self._flatten(magnitude, like), codec.block))
        wide = self._expand_scales(codec, scale, like)
        codes = list(codec.split(codec.cut_noise_bits(x, wide), noise, wide))
        if codec.packed:
            codes[0] = codec.fields[0].element.encode(self._flatten(codes[0], like))
        return [*codes, codec.fields[-1].element.encode(scale)]

    def _template(self, codec: Codec, fields: Sequence[Array], parameter: Array) -> Array:
        """Return an array with the shape and the memory order of the value that is stored in these arrays."""
        return parameter if codec.packed else fields[0]

    # -- order of memory --------------------------------------------------------------------------------------------

    def _order(self, a: Array) -> list[int]:
        """Return the axes from the slowest to the fastest in memory."""
        strides = self.strides(a)
        return sorted(range(len(strides)), key=lambda axis: (-strides[axis], axis))

    def _flatten(self, a: Array, like: Array) -> Array:
        """Return (n,) the elements of ``a`` in the order in which ``like``, of the same shape, has them in memory."""
        return self.permute(a, self._order(like)).reshape(-1)

    def _unflatten(self, a: Array, like: Array) -> Array:
        """Return a flat array (n,) in the shape and memory order of ``like``; the inverse of :meth:`_flatten`."""
        order = self._order(like)
        back = sorted(range(len(order)), key=order.__getitem__)
        return self.permute(a.reshape([like.shape[axis] for axis in order]), back)

    def _expand_scales(self, codec: Codec, scale: Array, like: Array) -> Array:
        """Return, in the shape of ``like``, the scale of each element's block; ``scale`` has one number per block."""
        return self._unflatten(self.repeat(scale, codec.block)[: len(self.number_elements(like))], like)

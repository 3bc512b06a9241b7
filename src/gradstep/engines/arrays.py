"""What the engines of whole arrays share: reading and writing values of every codec, with NumPy or torch.

Blocks and noise go by an element's place in memory. An array of any order of axes is brought into that order by
turning its axes, which copies nothing.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradstep.engines.base import UpdateSpec
from gradstep.engines.statistics import Tally, add_rows, count_rows, empty_table
from gradstep.rules import State
from gradstep.rules.ops import Array
from gradstep.storage.codecs import BLOCK, Blocks, Codec, Elementwise
from gradstep.storage.noise import halves, mixed, placed


def build_tally(found: Mapping[int, Sequence[float]], owners: NDArray[np.int64]) -> Tally:
    """What was collected of single parameters, counted for their owners."""
    table = empty_table(count_rows(owners))
    if found:
        add_rows(table, owners[list(found)], np.array(list(found.values())))
    return Tally.of(table)


class Arrays(ABC):
    """The few things that NumPy and torch do differently."""

    @abstractmethod
    def strides(self, a: Array) -> Sequence[int]:
        """By axis."""

    @abstractmethod
    def permute(self, a: Array, axes: Sequence[int]) -> Array:
        """The axes in another order."""

    @abstractmethod
    def number_elements(self, like: Array, start: int = 0) -> Array:
        """0, 1, 2, … as flat int32, one for each element of ``like``; or from another start on."""

    @abstractmethod
    def repeat(self, a: Array, times: int) -> Array:
        """Every element of a flat array so many times in a row."""

    @abstractmethod
    def chunk_maxima(self, a: Array, every: int) -> Array:
        """The largest of every so many elements of a flat array of non-negative int32."""

    @abstractmethod
    def cast(self, x: Array, dtype: type[np.floating[Any]]) -> Array:
        """Numbers as float32 or float64."""

    @abstractmethod
    def write(self, places: Sequence[Array], codes: Sequence[Array]) -> None:
        """Put codes into their places; a code may share memory with a place."""

    # -- values ---------------------------------------------------------------------------------------------------

    def update(
        self, spec: UpdateSpec, c: Any, key: int, columns: Sequence[Array], *, watched: bool, start: int = 0
    ) -> list[float]:
        """One step of one parameter, in place.

        Args:
            spec: what to compute.
            c: the coefficients, by name.
            key: of the parameter's noise at this step.
            columns: the array of every field.
            watched: whether to collect statistics.
            start: which element of the parameter the first one is.

        Returns:
            The statistics, if they are collected.
        """
        places = spec.split_by_codec(columns)
        g, p, *slots = (
            self.cast(self.value(codec, fields), spec.arithmetic)
            for codec, fields in zip(spec.codecs, places, strict=True)
        )
        state = State(**dict(zip(spec.slots, slots, strict=True)))
        g = g * c.gradient
        new = [spec.rule.update(p, g, state, c), *(getattr(state, name) for name in spec.slots)]
        random: dict[int, Array] = {}
        codes: list[Array] = []
        for j, (x, fields) in enumerate(zip(new, places[1:], strict=True), 1):
            noise = None
            if j in spec.noise:
                stream = spec.noise[j]
                if stream not in random:
                    low, high = halves(key)
                    random[stream] = mixed(placed(self.number_elements(fields[0], start), low), high, stream)
                noise = self._unflatten(random[stream], fields[0])
            codes += self.codes(spec.codecs[j], x, noise, fields[0])
        found = self._statistics(spec, g, p, new) if watched else []
        self.write(columns[1:], codes)
        return found

    def _statistics(self, spec: UpdateSpec, g: Array, p: Array, new: Sequence[Array]) -> list[float]:
        double = np.float64
        stored = spec.parameter.kept(new[0])
        second = dict(zip(spec.slots, new[1:], strict=True)).get(spec.second)
        squares = (
            (self.cast(x, double) ** 2).sum() for x in (g, stored, self.cast(stored, double) - self.cast(p, double))
        )
        return [
            *map(float, squares),
            float(((stored == p) & (g != 0.0)).sum()),
            *([math.nan] * 2 if second is None else (float(second.min()), float(second.max()))),
        ]

    def value(self, codec: Codec, fields: Sequence[Array]) -> Array:
        """What is stored in these arrays."""
        numbers = [f.element.decode(a) for f, a in zip(codec.fields, fields, strict=True)]
        if isinstance(codec, Elementwise):
            return codec.join(*numbers)
        assert isinstance(codec, Blocks)
        return codec.join(numbers[0], self._expand_scales(numbers[1], fields[0]))

    def codes(self, codec: Codec, x: Array, noise: Array, like: Array) -> list[Array]:
        """A value as it is stored, by field; nothing is written.

        Args:
            codec: how to store it.
            x: the value.
            noise: int32, uniform on 0 … 2²⁰ − 1, for each element, if the codec takes any.
            like: an array in whose order of memory blocks are cut.
        """
        if isinstance(codec, Elementwise):
            return list(codec.split(self.cast(x, codec.arithmetic), noise))
        assert isinstance(codec, Blocks)
        x = codec.bare(x)
        scale = codec.scale(self.chunk_maxima(self._flatten(codec.magnitude(x), like), BLOCK))
        wide = self._expand_scales(scale, like)
        return [codec.split(codec.steady(x, wide), wide, noise), codec.fields[1].element.encode(scale)]

    # -- order of memory --------------------------------------------------------------------------------------------

    def _order(self, a: Array) -> list[int]:
        """The axes from the slowest to the fastest in memory."""
        strides = self.strides(a)
        return sorted(range(len(strides)), key=lambda axis: (-strides[axis], axis))

    def _flatten(self, a: Array, like: Array) -> Array:
        """The elements in the order in which ``like`` has them in memory."""
        return self.permute(a, self._order(like)).reshape(-1)

    def _unflatten(self, a: Array, like: Array) -> Array:
        """A flat array in the shape and order of memory of another."""
        order = self._order(like)
        back = sorted(range(len(order)), key=order.__getitem__)
        return self.permute(a.reshape([like.shape[axis] for axis in order]), back)

    def _expand_scales(self, scale: Array, like: Array) -> Array:
        """The scale of its block for each element."""
        return self._unflatten(self.repeat(scale, BLOCK)[: len(self.number_elements(like))], like)

"""The reference engine: the rule in NumPy, one tensor after the other. Slow; other engines are tested against it."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, final

import numpy as np

from gradstep.engines.arrays import Arrays, build_tally
from gradstep.engines.base import Batch, Engine, Traits
from gradstep.rules import Rule
from gradstep.rules.base import Array
from gradstep.storage.elements import ELEMENTS


@final
class NumPyArrays(Arrays):
    """The operations of :class:`Arrays` on NumPy arrays."""

    def strides(self, a: Array) -> Sequence[int]:
        return a.strides  # type: ignore[no-any-return]

    def permute(self, a: Array, axes: Sequence[int]) -> Array:
        return a.transpose(axes)

    def number_elements(self, like: Array, start: int = 0) -> Array:
        return np.arange(start, start + like.size).astype(np.int32)

    def repeat(self, a: Array, times: int) -> Array:
        return np.repeat(a, times)

    def chunk_maxima(self, a: Array, every: int) -> Array:
        return np.pad(a, (0, -len(a) % every)).reshape(-1, every).max(axis=1)

    def cast(self, x: Array, dtype: type[np.floating[Any]]) -> Array:
        return np.asarray(x).astype(dtype, copy=False)

    def join_numbers(self, numbers: Sequence[Array]) -> Array:
        return np.array(numbers, dtype=np.float64)

    def write(self, places: Sequence[Array], codes: Sequence[Array]) -> None:
        for place, code in zip(places, [np.array(code) for code in codes], strict=True):
            place[...] = code


_ARRAYS = NumPyArrays()


@final
class Reference(Engine):
    """Updates with NumPy in the parameter's arithmetic, so float64 parameters give the float64 reference."""

    name = "reference"
    parts = False

    def refuse(self, rule: type[Rule], traits: Traits) -> str | None:
        if traits.device != "cpu":
            return f"it is on {traits.device} and NumPy reads the CPU's memory"
        if not traits.plain:
            return "it is a tensor subclass"
        if traits.dtype not in ELEMENTS:
            return f"NumPy has no codec for {traits.dtype} (it has {', '.join(ELEMENTS)})"
        return None

    def update(self, batch: Batch) -> None:
        spec = batch.spec
        rows = [
            SimpleNamespace(**dict(zip(spec.coefficients, row.astype(spec.arithmetic), strict=True)))
            for row in batch.coefficients
        ]
        statistics = {}
        # No warnings of overflow and 0/0: the fused kernel does not warn either.
        with np.errstate(all="ignore"):
            for k, columns in batch.iterate_parameters(batch.arrays()):
                if columns[0].size:
                    row, key = rows[batch.rows[k]], int(batch.keys[k])
                    statistics[k] = _ARRAYS.update(spec, row, key, columns, watched=batch.owners is not None)
        if batch.owners is not None:
            collected = np.array(list(statistics.values()), dtype=np.float64)
            batch.tally = build_tally(list(statistics), collected, batch.owners)

    def sum_squares(self, batch: Batch) -> float:
        element = batch.spec.gradient.element
        with np.errstate(all="ignore"):
            return float(sum(np.sum(element.decode(g).astype(np.float64) ** 2) for g in batch.arrays()[0]))

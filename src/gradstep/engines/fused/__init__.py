"""The fused CPU kernel: a rule's own lines, traced into LLVM, in one parallel pass over all tensors."""

from __future__ import annotations

from functools import cache
from typing import final

import numpy as np
from numpy.typing import NDArray

from gradstep.engines.base import Batch, Engine, Int64s, Traits, UpdateSpec
from gradstep.engines.fused.job import launch, parts_of, work_of
from gradstep.engines.statistics import STATISTICS, SUMS
from gradstep.rules import Rule
from gradstep.storage.elements import ELEMENTS, Element


@final
class Fused(Engine):
    """One kernel call per element types: read, update and write every tensor once, without temporaries.

    LLVM is imported and the kernel compiled at the first step (about a tenth of a second).
    """

    name = "fused"
    parts = True

    def refuse(self, rule: type[Rule], traits: Traits) -> str | None:
        if not rule.elementwise:
            return f"{rule.__name__} looks at whole tensors (means, norms), the kernel at one element at a time"
        if traits.device != "cpu":
            return f"it is on {traits.device} and the kernel runs on the CPU"
        if traits.dtype not in ELEMENTS:
            return f"the kernel has no codec for {traits.dtype} (it has {', '.join(ELEMENTS)})"
        if not traits.plain:
            return "it is a tensor subclass"
        if not traits.dense:
            return "its memory has gaps or overlaps"
        if traits.dtype == "float16" and not _converts_float16():
            return "this processor does not convert float16"
        return None

    def prepare(self, spec: UpdateSpec) -> None:
        _update_kernel(spec)

    def update(self, batch: Batch) -> None:
        coefficients = np.ascontiguousarray(batch.coefficients, dtype=batch.spec.arithmetic)
        lengths = batch.lengths
        tensors = np.column_stack((batch.addresses, lengths, batch.rows, batch.keys))
        work = work_of(lengths) if batch.pieces is None else parts_of(batch.pieces)
        results = np.empty((len(work.chunks) if batch.watched else 0, len(STATISTICS)))
        launch(_update_kernel(batch.spec, batch.watched), tensors, work, batch.threads, coefficients, results)
        if batch.watched:
            batch.statistics = _by_tensor(results, work.chunks[:, 0], len(lengths), ranged=bool(batch.spec.second))

    def squares(self, batch: Batch) -> float:
        lengths = batch.lengths
        tensors = np.column_stack((batch.addresses[:, 0], lengths, batch.rows, batch.keys))
        work = work_of(lengths)
        partial = np.empty(len(work.chunks))
        kernel = _squares_kernel(batch.spec.gradient.fields[0].element)
        launch(kernel, tensors, work, batch.threads, np.empty(0), partial)
        return float(partial.sum())


def _by_tensor(found: NDArray[np.float64], owners: Int64s, tensors: int, *, ranged: bool) -> NDArray[np.float64]:
    """The statistics of tensors from those of their chunks."""
    result = np.zeros((tensors, len(STATISTICS)))
    result[:, SUMS:] = np.nan
    if not len(owners):
        return result
    first = np.flatnonzero(np.diff(owners, prepend=-1))  # the first chunk of every tensor that has any
    result[owners[first], :SUMS] = np.add.reduceat(found[:, :SUMS], first)
    if ranged:
        result[owners[first], SUMS] = np.minimum.reduceat(found[:, SUMS], first)
        result[owners[first], SUMS + 1] = np.maximum.reduceat(found[:, SUMS + 1], first)
    return result


# LLVM is slow to import and not needed by other engines: these import it when they are first called.


@cache
def _update_kernel(spec: UpdateSpec, watched: bool = False) -> int:
    from gradstep.engines.fused.jit import compile_module
    from gradstep.engines.fused.kernel import build_update

    return compile_module(build_update(spec, watched=watched))


@cache
def _squares_kernel(gradient: Element) -> int:
    from gradstep.engines.fused.jit import compile_module
    from gradstep.engines.fused.kernel import build_squares

    return compile_module(build_squares(gradient))


@cache
def _converts_float16() -> bool:
    from gradstep.engines.fused.jit import converts_float16

    return converts_float16()

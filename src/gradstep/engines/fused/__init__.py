"""The fused CPU kernel: a rule's own lines, traced into LLVM, in one parallel pass over all tensors."""

from __future__ import annotations

import math
from functools import cache
from typing import final

import numpy as np

from gradstep.engines.base import Batch, Engine, Traits, UpdateSpec
from gradstep.engines.fused.job import PER_TENSOR, launch, parts_of, work_of
from gradstep.engines.fused.results import ROW, results_of
from gradstep.engines.statistics import NOTHING, STATISTICS, Tally, rows_of
from gradstep.rules import Rule
from gradstep.storage.elements import ELEMENTS, Element


@final
class Fused(Engine):
    """One kernel call per element types: read, update and write every tensor once, without temporaries.

    LLVM is imported and the kernel compiled at the first step (about a tenth of a second).
    """

    name = "fused"
    parts = True
    by_address = True

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
        owners = batch.owners
        work = work_of(batch.sizes, batch.owned) if batch.pieces is None else parts_of(batch.pieces, owners)
        kernel = _update_kernel(batch.spec, owners is not None)
        if owners is None:
            launch(kernel, batch.table, work, batch.threads, coefficients)
            return
        count = rows_of(owners)
        try:
            results = work.rooms.pop()
        except IndexError:  # each is somebody else's now, who steps at the same time, or there was none yet
            results = results_of(len(work.runs))
        totals = np.empty((count + 1, ROW))
        if not work.elements:  # and nobody to add nothing up
            totals[:, : len(STATISTICS)] = NOTHING
        launch(kernel, batch.table, work, batch.threads, coefficients, results, totals)
        work.rooms.append(results)
        batch.tally = Tally(totals[:count, : len(STATISTICS)], math.isfinite(totals[count, 0]))

    def squares(self, batch: Batch) -> float:
        work = work_of(batch.sizes)
        partial = np.empty(len(work.runs))
        kernel = _squares_kernel(batch.spec.gradient.fields[0].element, batch.table.shape[1] - len(PER_TENSOR))
        launch(kernel, batch.table, work, batch.threads, None, partial)
        return float(partial.sum())


# LLVM is slow to import and not needed by other engines: these import it when they are first called.


@cache
def _update_kernel(spec: UpdateSpec, watched: bool = False) -> int:
    from gradstep.engines.fused.jit import compile_module
    from gradstep.engines.fused.kernel import build_update

    return compile_module(build_update(spec, watched=watched))


@cache
def _squares_kernel(gradient: Element, columns: int) -> int:
    from gradstep.engines.fused.jit import compile_module
    from gradstep.engines.fused.kernel import build_squares

    return compile_module(build_squares(gradient, columns))


@cache
def _converts_float16() -> bool:
    from gradstep.engines.fused.jit import converts_float16

    return converts_float16()

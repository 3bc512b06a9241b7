"""The fused CPU engine: a rule's own lines, traced into an LLVM kernel, in one parallel pass over all tensors."""

from __future__ import annotations

import math
from collections.abc import Hashable
from functools import cache
from typing import final

import numpy as np

from gradstep.engines.base import Batch, Engine, Traits, UpdateSpec
from gradstep.engines.fused.job import PER_TENSOR, ROW_WIDTH, divide_pieces, divide_tensors
from gradstep.engines.fused.launcher import CompiledKernel, allocate_results, launch, patterns
from gradstep.engines.statistics import EMPTY_ROW, STATISTICS, Tally, count_rows
from gradstep.rules import Rule
from gradstep.storage.elements import ELEMENTS, Element


@final
class Fused(Engine):
    """One kernel call for all parameters of one spec: it reads, updates and writes each once, without temporaries.

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
            return "it is a tensor subclass, or has no memory of its own"
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
        work = (
            divide_tensors(batch.lengths_key, batch.owners_key)
            if batch.pieces is None
            else divide_pieces(batch.pieces, owners)
        )
        kernel = _update_kernel(batch.spec, owners is not None)
        if owners is None:
            launch(kernel, batch.table, work, batch.threads, coefficients)
            return
        count = count_rows(owners)
        try:
            results = work.result_buffers.pop()
        except IndexError:  # the first launch, or threads that step at the same time use all buffers
            results = allocate_results(len(work.runs))
        totals = np.empty((count + 1, ROW_WIDTH))
        if not work.elements:  # no kernel runs and writes them
            totals[:, : len(STATISTICS)] = EMPTY_ROW
        launch(kernel, batch.table, work, batch.threads, coefficients, results, totals)
        work.result_buffers.append(results)
        batch.tally = Tally(totals[:count, : len(STATISTICS)], math.isfinite(totals[count, 0]))

    def sum_squares(self, batch: Batch) -> float:
        work = divide_tensors(batch.lengths_key, None)  # with the key of the update, whose division is cached
        partial = np.empty(len(work.runs))
        kernel = _squares_kernel(batch.spec.gradient.fields[0].element, batch.table.shape[1] - len(PER_TENSOR))
        launch(kernel, batch.table, work, batch.threads, None, partial)
        return float(partial.sum())


_kernels: dict[Hashable, CompiledKernel] = {}
"""All compiled kernels. Two threads may compile the same one at once; both then use the first."""


def _update_kernel(spec: UpdateSpec, watched: bool = False) -> CompiledKernel:
    return _kernels.get((spec, watched)) or _kernels.setdefault((spec, watched), _compiled_update(spec, watched))


def _squares_kernel(gradient: Element, columns: int) -> CompiledKernel:
    return _kernels.get((gradient, columns)) or _kernels.setdefault(
        (gradient, columns), _compiled_squares(gradient, columns)
    )


# The following functions import LLVM when they are called: it is slow to import, and other engines do not need it.


def _compiled_update(spec: UpdateSpec, watched: bool) -> CompiledKernel:
    from gradstep.engines.fused.jit import compile_module
    from gradstep.engines.fused.kernel import build_update

    # One stream: statistics must be added up in one order, and blocks are visited one after the other.
    one_stream = watched or any(codec.block > 1 for codec in spec.codecs)
    choices = patterns((1,)) if one_stream else patterns()
    return CompiledKernel(compile_module(build_update(spec, watched=watched)), _title(spec, watched), choices)


def _compiled_squares(gradient: Element, columns: int) -> CompiledKernel:
    from gradstep.engines.fused.jit import compile_module
    from gradstep.engines.fused.kernel import ACCUMULATORS, build_squares

    choices = patterns((1, ACCUMULATORS))
    return CompiledKernel(compile_module(build_squares(gradient, columns)), f"squares of {gradient.name}", choices)


@cache
def _converts_float16() -> bool:
    from gradstep.engines.fused.jit import converts_float16

    return converts_float16()


def _title(spec: UpdateSpec, watched: bool) -> str:
    """Return a kernel's title in reports."""
    state = ", ".join(f"{slot} {codec.name}" for slot, codec in zip(spec.slots, spec.state, strict=True))
    words = f"{spec.rule.__name__} of {spec.parameter.name}"
    return words + f" ({state})" * bool(state) + ", watched" * watched

"""The fused CPU engine: a rule's own lines, traced into an LLVM kernel, in one parallel pass over all tensors."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from functools import cache, lru_cache
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from gradstep.engines.base import ROW, Batch, Engine, Pieces, Traits
from gradstep.engines.fused.job import CHUNK, MAX_CHUNK, MIN_CHUNKS, PER_TENSOR, PIECE_COST, ROW_WIDTH, Work
from gradstep.engines.fused.launcher import CompiledKernel, allocate_results, launch, patterns
from gradstep.engines.statistics import EMPTY_ROW, STATISTICS, Int64s, Tally, count_rows
from gradstep.rules import Rule
from gradstep.rules.ops import SUM_BLOCK
from gradstep.storage.elements import ELEMENTS, Element
from gradstep.storage.policy import UpdateSpec


@final
class Fused(Engine):
    """One kernel call for all parameters of one spec: it reads, updates and writes each once, without temporaries.

    LLVM is imported and the kernel compiled at the first step (0.1 to 0.7 s, see docs/speed.md).
    """

    name = "fused"
    parts = True
    by_address = True

    def refuse(self, rule: type[Rule], traits: Traits) -> str | None:
        if rule.sees not in ("elements", "means"):
            return f"{rule.__name__} looks at whole tensors (rows, norms, products), the kernel at elements and means"
        if rule.sees == "means" and traits.sharded:
            return f"this process has a part of it, and {rule.__name__} needs means over the whole"
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

    def prepare(self, spec: UpdateSpec, *, watched: bool) -> None:
        _update_kernel(spec, watched)

    def update(self, batch: Batch) -> None:
        table, coefficients = batch.table, np.ascontiguousarray(batch.coefficients, dtype=batch.spec.arithmetic)
        if batch.spec.rule.sees == "means":
            table, coefficients = compute_means(batch)
        owners = batch.owners
        work = (
            divide_tensors(batch.lengths_key, batch.owners_key)
            if batch.pieces is None
            else divide_pieces(batch.pieces, owners)
        )
        kernel = _update_kernel(batch.spec, owners is not None)
        if owners is None:
            launch(kernel, table, work, batch.threads, coefficients)
            return
        count = count_rows(owners)
        try:
            results = work.result_buffers.pop()
        except IndexError:  # the first launch, or threads that step at the same time use all buffers
            results = allocate_results(len(work.runs))
        totals = np.empty((count + 1, ROW_WIDTH))
        if not work.elements:  # no kernel runs and writes them
            totals[:, : len(STATISTICS)] = EMPTY_ROW
        launch(kernel, table, work, batch.threads, coefficients, results, totals)
        work.result_buffers.append(results)
        batch.tally = Tally(totals[:count, : len(STATISTICS)], math.isfinite(totals[count, 0]))

    def sum_squares(self, batch: Batch) -> float:
        work = divide_tensors(batch.lengths_key, None)  # with the key of the update, whose division is cached
        partial = np.empty(len(work.runs))
        kernel = _squares_kernel(batch.spec.gradient.element, batch.table.shape[1] - len(PER_TENSOR))
        launch(kernel, batch.table, work, batch.threads, None, partial)
        return float(partial.sum())


def compute_means(batch: Batch) -> tuple[Int64s, NDArray[np.floating[Any]]]:
    """Compute the means over each tensor that a rule asks for, one after the other: each may depend on those before it.

    Returns:
        The table of the batch, with a row of numbers for each tensor; and these rows, in the kernel's arithmetic: the
        coefficients, the number of elements, and every mean.
    """
    tensors, lengths = len(batch.table), batch.lengths
    table = batch.table.copy()
    table[:, ROW] = np.arange(tensors)
    rows = np.column_stack((batch.coefficients[batch.rows], lengths))
    work = divide_blocks(batch.lengths_key)
    for kernel in _mean_kernels(batch.spec):
        sums = np.empty(len(work.runs))
        launch(kernel, table, work, batch.threads, np.ascontiguousarray(rows, batch.spec.arithmetic), sums)
        totals = np.bincount(work.runs[:, -1], sums, tensors)  # it adds one after the other
        rows = np.column_stack((rows, totals / np.maximum(lengths, 1)))
    return table, np.ascontiguousarray(rows, batch.spec.arithmetic)


# -- division of the work ---------------------------------------------------------------------------------------------


@lru_cache(maxsize=32)  # an optimizer's arguments are the same at every step
def divide_tensors(lengths_key: bytes, owners: bytes | None = None) -> Work:
    """Divide whole tensors into chunks; (n,) int64 lengths, and owners as in :func:`divide_pieces`, are bytes."""
    lengths = np.frombuffer(lengths_key, dtype=np.int64)
    whole = np.column_stack((np.arange(len(lengths)), np.zeros_like(lengths), lengths))
    return divide_pieces(whole, None if owners is None else np.frombuffer(owners, dtype=np.int64))


@lru_cache(maxsize=32)
def divide_blocks(lengths_key: bytes) -> Work:
    """Divide whole tensors, (n,) int64 lengths as bytes, into blocks whose sums do not depend on other tensors.

    Each block is a run, whose owner is its tensor.
    """
    lengths = np.frombuffer(lengths_key, dtype=np.int64)
    tensors = np.arange(len(lengths))
    return divide_pieces(np.column_stack((tensors, np.zeros_like(lengths), lengths)), tensors, SUM_BLOCK)


def divide_pieces(pieces: Pieces, owners: Int64s | None = None, size: int | None = None) -> Work:
    """Divide pieces into chunks.

    The size of the chunks depends only on the number of elements, so sums are the same for any number of threads.

    Args:
        pieces: (pieces, 3) the parts of tensors to update.
        owners: (n,) the row of statistics that each tensor counts for; None without statistics.
        size: the elements of a chunk; None chooses by their number.
    """
    tensor, start, stop = pieces.T
    elements = int((stop - start).sum())
    if size is None:
        size = CHUNK
        while size < MAX_CHUNK and elements >= 2 * size * MIN_CHUNKS:
            size *= 2
    counts = -(-(stop - start) // size)
    before = np.repeat(np.cumsum(counts) - counts, counts)
    tensor, start, stop = (np.repeat(column, counts) for column in pieces.T)
    start = start + (np.arange(len(before)) - before) * size
    stop = np.minimum(start + size, stop)
    cost = stop - start + PIECE_COST
    owner = np.zeros_like(tensor) if owners is None else owners[tensor]
    chunk = (np.cumsum(cost) - cost) // size
    opens = np.diff(chunk, prepend=-1) != 0
    runs = _bounds(opens | (np.diff(owner, prepend=-1) != 0))
    chunks = _bounds(opens[runs[:, 0]])
    owned, smaller = np.column_stack((runs, owner[runs[:, 0]])), np.column_stack((tensor, start, stop))
    return Work(chunks, owned, smaller, elements, (chunks.ctypes.data, owned.ctypes.data, smaller.ctypes.data))


def _bounds(opens: NDArray[np.bool_]) -> Int64s:
    """Return (ranges, 2) the first index of each range and the one after its last; ``opens`` (n,) marks the first."""
    first = np.flatnonzero(opens)
    return np.column_stack((first, np.append(first, len(opens))[1:]))


# -- kernels ----------------------------------------------------------------------------------------------------------

_kernels: dict[Hashable, CompiledKernel] = {}
"""All compiled kernels. Two threads may compile the same one at once; both then use the first."""

_kernels_of_means: dict[UpdateSpec, Sequence[CompiledKernel]] = {}
"""The compiled kernels of the means that updates need."""


def _update_kernel(spec: UpdateSpec, watched: bool = False) -> CompiledKernel:
    return _kernels.get((spec, watched)) or _kernels.setdefault((spec, watched), _compiled_update(spec, watched))


def _mean_kernels(spec: UpdateSpec) -> Sequence[CompiledKernel]:
    """Return the kernel of each mean that the rule asks for, in this order."""
    if spec.rule.sees != "means":
        return ()
    return _kernels_of_means.get(spec) or _kernels_of_means.setdefault(spec, _compiled_means(spec))


def _squares_kernel(gradient: Element, columns: int) -> CompiledKernel:
    return _kernels.get((gradient, columns)) or _kernels.setdefault(
        (gradient, columns), _compiled_squares(gradient, columns)
    )


# The following functions import LLVM when they are called: it is slow to import, and other engines do not need it.


def _compiled_update(spec: UpdateSpec, watched: bool) -> CompiledKernel:
    from gradstep.engines.fused.kernel import build_update
    from gradstep.engines.fused.skeleton import compile_module

    # One stream: statistics must be added up in one order, and blocks are visited one after the other.
    one_stream = watched or any(codec.block > 1 for codec in spec.codecs)
    address = compile_module(build_update(spec, watched=watched, means=len(_mean_kernels(spec))))
    return CompiledKernel(address, _title(spec, watched), patterns((1,)) if one_stream else patterns())


def _compiled_means(spec: UpdateSpec) -> Sequence[CompiledKernel]:
    from gradstep.engines.fused.skeleton import compile_module
    from gradstep.engines.fused.sums import build_mean

    kernels: list[CompiledKernel] = []
    while (module := build_mean(spec, len(kernels))) is not None:
        title = f"mean {len(kernels) + 1} of {_title(spec, watched=False)}"
        kernels.append(CompiledKernel(compile_module(module), title, patterns((1,))[:1]))
    return kernels


def _compiled_squares(gradient: Element, columns: int) -> CompiledKernel:
    from gradstep.engines.fused.skeleton import compile_module
    from gradstep.engines.fused.sums import ACCUMULATORS, build_squares

    address = compile_module(build_squares(gradient, columns))
    return CompiledKernel(address, f"squares of {gradient.name}", patterns((1, ACCUMULATORS)))


@cache
def _converts_float16() -> bool:
    from gradstep.engines.fused.skeleton import converts_float16

    return converts_float16()


def _title(spec: UpdateSpec, watched: bool) -> str:
    """Return a kernel's title in reports."""
    state = ", ".join(f"{slot} {codec.name}" for slot, codec in zip(spec.slots, spec.state, strict=True))
    words = f"{spec.rule.__name__} of {spec.parameter.name}"
    return words + f" ({state})" * bool(state) + ", watched" * watched

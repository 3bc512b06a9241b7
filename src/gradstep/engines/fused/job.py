"""The job of a kernel: tables of chunks, runs, pieces and tensors, and the threads that run it.

A chunk is the work that a thread takes at a time: a piece of a large tensor, or several small tensors. Consecutive
pieces of a chunk with one owner are a run, which has one row of results. The job is an array of int64: the numbers of
claimed and of finished chunks; the numbers of chunks, of runs and of owners; the access pattern; then the addresses of
the tables (`PER_CHUNK`, `PER_RUN`, `PER_PIECE`; the tensor table has an address per column, then `PER_TENSOR`), of the
coefficients, of the results per run, and of the totals per owner.

If torch has loaded an OpenMP runtime, its threads do the work: they are awake from the backward pass, and a second set
of threads would compete with them for the cores (measured: 10 to 15% of a step). Otherwise, and in a forked child
(where entering OpenMP again can hang), Python threads do.
"""

from __future__ import annotations

import ctypes
import os
import sys
from array import array
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache, cached_property, lru_cache
from pathlib import Path
from time import perf_counter
from typing import Any, cast, final

import numpy as np
from numpy.typing import NDArray

from gradstep.engines.base import Int64s, Pieces
from gradstep.engines.fused.access import CompiledKernel, selection_for

Task = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
"""A compiled kernel; ctypes releases Python's lock while it runs."""

_forked = False
_pools: dict[int, ThreadPoolExecutor] = {}


def _after_fork() -> None:
    global _forked
    _forked = True
    _pools.clear()  # the parent's threads do not exist here


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_after_fork)


@cache
def _openmp() -> Callable[..., Any] | None:
    """Return ``GOMP_parallel`` of the OpenMP runtime that torch has loaded (libgomp, or Intel's or LLVM's)."""
    if "torch" not in sys.modules or sys.platform == "win32":
        return None
    try:
        parallel: Any = ctypes.CDLL(None).GOMP_parallel
    except AttributeError:
        return None
    parallel.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
    parallel.restype = None
    return parallel  # type: ignore[no-any-return]


def count_processors() -> int:
    """Return the number of processors that this process may use, by its affinity and its control group's limit."""
    if sys.platform == "linux":
        count = len(os.sched_getaffinity(0))
        try:
            quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        except (OSError, ValueError):
            return count
        return count if quota == "max" else max(1, min(count, -(-int(quota) // int(period))))
    return os.cpu_count() or 1


def run(address: int, job: int, threads: int) -> None:
    """Run the task at ``address`` on ``threads`` threads, each with the same ``job``, until all are done."""
    if threads <= 1:
        Task(address)(job)
        return
    parallel = None if _forked else _openmp()
    if parallel is not None:
        parallel(address, job, threads, 0)
        return
    pool = _pools.get(threads)
    if pool is None:
        pool = _pools.setdefault(threads, ThreadPoolExecutor(threads - 1, "gradstep"))
    helpers = [pool.submit(Task(address), job) for _ in range(threads - 1)]
    Task(address)(job)
    for helper in helpers:
        if not helper.cancel():  # one that has not begun by now has nothing left to do
            helper.result()


CHUNK = 16_384
"""Elements of a chunk when there is little work: a few microseconds."""

MAX_CHUNK = 65_536
"""Elements of a chunk when there is much work. Beginning a chunk costs time, mostly the memory's: four times as many
chunks cost 4% of a step."""

MIN_CHUNKS = 128
"""Chunks grow beyond ``CHUNK`` only if at least so many remain, for many threads to share."""

PIECE_COST = 256
"""The time to begin a piece, in elements that could be updated meanwhile."""

ROW_WIDTH = 8
"""Numbers in a row of results: one cache line, since other threads write the rows before and after it."""

COUNTS = ("claimed", "done", "chunk_count", "run_count", "owner_count", "streams", "prefetch")
FIELDS = (*COUNTS, "chunks", "runs", "pieces", "tensors", "coefficients", "results", "totals")
"""The fields of a job, in their order."""

PER_CHUNK = ("first", "stop")
"""Columns of the chunk table: a chunk's first run and the one after its last."""

PER_RUN = ("first", "stop", "owner")
"""Columns of the run table: a run's first piece and the one after its last, and the owner of its statistics."""

PER_PIECE = ("tensor", "start", "stop")
"""Columns of the piece table: a piece's tensor, its first element and the one after its last."""

PER_TENSOR = ("length", "row", "key")
"""Columns of the tensor table after the addresses: number of elements, row of coefficients, key of noise."""

_PER_THREAD = 32_768  # elements for which another thread is worth waking; each piece counts as PIECE_COST more


@final
@dataclass(frozen=True)
class Work:
    """The work of a launch, divided into chunks.

    Attributes:
        chunks: (chunks, PER_CHUNK).
        runs: (runs, PER_RUN).
        pieces: (pieces, PER_PIECE).
        elements: the elements of all pieces.
        result_buffers: unused buffers, each (runs, ROW_WIDTH), for the results of a launch; there are as many as
            launches ran at the same time.
    """

    chunks: Int64s
    runs: Int64s
    pieces: Int64s
    elements: int
    result_buffers: list[NDArray[np.float64]] = field(default_factory=list)

    @cached_property
    def addresses(self) -> tuple[int, int, int]:
        """The addresses of the three tables."""
        return address_of(self.chunks), address_of(self.runs), address_of(self.pieces)


def launch(
    kernel: CompiledKernel,
    tensors: Int64s,
    work: Work,
    threads: int,
    coefficients: NDArray[np.floating[Any]] | None,
    results: NDArray[np.float64] | None = None,
    totals: NDArray[np.float64] | None = None,
) -> None:
    """Run the kernel over all chunks, and wait until it is done.

    Args:
        kernel: the compiled kernel.
        tensors: (n, columns + 3) the tensor table.
        work: the chunks.
        threads: the largest number of threads; fewer run when there is little to do.
        coefficients: (rows, names) in the kernel's arithmetic, C-contiguous, if the kernel takes any.
        results: (runs, …) the kernel writes its results here, if it has any; C-contiguous.
        totals: (owners + 1, …) the kernel writes the sums of the results here, if it adds them up; C-contiguous.
    """
    if work.elements == 0:
        return
    owners = 0 if totals is None else len(totals) - 1
    others = (0 if a is None else address_of(a) for a in (coefficients, results, totals))
    cost = work.elements + PIECE_COST * len(work.pieces)
    threads = max(1, min(threads, len(work.chunks), cost // _PER_THREAD))
    selection = selection_for(kernel, work.elements, threads)
    pattern = kernel.patterns[0] if selection is None else selection.next()
    counts = (0, 0, len(work.chunks), len(work.runs), owners, pattern.streams, pattern.prefetch)
    job = array("q", (*counts, *work.addresses, address_of(tensors), *others))
    if selection is None or selection.chosen is not None:
        run(kernel.address, job.buffer_info()[0], threads)
        return
    begin = perf_counter()
    run(kernel.address, job.buffer_info()[0], threads)
    selection.add(pattern, perf_counter() - begin, work.elements)


def address_of(numbers: NDArray[Any]) -> int:
    """Return the address of an array that owns its memory; NumPy's own way takes three times as long."""
    return ctypes.addressof(ctypes.c_char.from_buffer(cast("bytearray", numbers)))


def allocate_results(rows: int) -> NDArray[np.float64]:
    """Return (rows, ROW_WIDTH) uninitialized numbers, with each row in its own cache line."""
    buffer = np.empty((rows + 1) * ROW_WIDTH)
    first = -address_of(buffer) // buffer.itemsize % ROW_WIDTH
    return buffer[first : first + rows * ROW_WIDTH].reshape(-1, ROW_WIDTH)


@lru_cache(maxsize=32)  # an optimizer's arguments are the same at every step
def divide_tensors(lengths_key: bytes, owners: bytes | None = None) -> Work:
    """Divide whole tensors into chunks; (n,) int64 lengths, and owners as in :func:`divide_pieces`, are bytes."""
    lengths = np.frombuffer(lengths_key, dtype=np.int64)
    whole = np.column_stack((np.arange(len(lengths)), np.zeros_like(lengths), lengths))
    return divide_pieces(whole, None if owners is None else np.frombuffer(owners, dtype=np.int64))


def divide_pieces(pieces: Pieces, owners: Int64s | None = None) -> Work:
    """Divide pieces into chunks.

    The size of the chunks depends only on the number of elements, so sums are the same for any number of threads.

    Args:
        pieces: (pieces, 3) the parts of tensors to update.
        owners: (n,) the row of statistics that each tensor counts for; None without statistics.
    """
    tensor, start, stop = pieces.T
    elements = int((stop - start).sum())
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
    return Work(chunks, np.column_stack((runs, owner[runs[:, 0]])), np.column_stack((tensor, start, stop)), elements)


def _bounds(opens: NDArray[np.bool_]) -> Int64s:
    """Return (ranges, 2) the first index of each range and the one after its last; ``opens`` (n,) marks the first."""
    first = np.flatnonzero(opens)
    return np.column_stack((first, np.append(first, len(opens))[1:]))

"""Launch a kernel: its pattern of memory access, and the threads that run it.

All patterns of a kernel give the same bits; the fastest is chosen by measuring.

A large update waits for memory, and the pattern that keeps memory busy differs between processors: reading from two
places in turns and prefetching was 10% faster on one, 6 to 15% and at times 100% slower on another. So no constant
decides. The first large launches of a kernel take every pattern in turns and are timed. The fastest is used for the
rest of the process, separately for each kernel, number of threads and size of work (by powers of 2), so that nothing is
assumed about caches and optimizers of different sizes do not affect each other. The default is the plainest pattern; it
stays unless another is clearly faster.

The choice is made once. The processor's own prefetching and the latency of its memory do not change while a process
lives, and measuring again would use slower patterns again.

No lock is needed: threads that launch at the same time only append to lists, and a forked child continues with a copy
of the measurements.

If torch has loaded an OpenMP runtime, its threads do the work: they are awake from the backward pass, and a second set
of threads would compete with them for the cores (measured: 10 to 15% of a step). Otherwise, and in a forked child
(where entering OpenMP again can hang), Python threads do.
"""

from __future__ import annotations

import ctypes
import os
import random
import sys
from array import array
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from time import perf_counter
from typing import Any, cast, final

import numpy as np
from numpy.typing import NDArray

from gradstep.engines.fused.job import PIECE_COST, ROW_WIDTH, Work
from gradstep.engines.statistics import Int64s

# -- patterns of memory access ----------------------------------------------------------------------------------------

VARIABLE = "GRADSTEP_ACCESS"
"""The environment variable that sets one pattern for all kernels: ``"STREAMS,PREFETCH"``."""

STREAMS = (1, 2, 4)
"""Possible numbers of streams that a kernel reads."""

PREFETCH = (160, 0)
"""Prefetch distances to try with every number of streams, in elements; the default first. 320 was as fast as 160."""

LONG_PREFETCH = 512
"""A longer distance, tried with one stream: as fast as no prefetching, and 4% faster than 160, on an AMD EPYC of family
26 while its memory was fast."""

MAX_PREFETCH = 4_096
"""The longest prefetch distance that may be set, in elements."""

LARGE = 1 << 20
"""The least elements of a launch that is measured: it takes a good part of a millisecond, measuring it less than one
microsecond. Smaller launches use the default."""

ROUNDS = 7
"""The number of measurements of each pattern."""

MARGIN = 0.98
"""Another pattern replaces the default if it takes at most this share of the default's time."""


@final
@dataclass(frozen=True)
class AccessPattern:
    """The order in which a kernel reads the elements of a tensor.

    Attributes:
        streams: the number of places, equally far apart, that are read in turns.
        prefetch: the distance of prefetching, in elements ahead of the present one; 0 for no prefetching.
    """

    streams: int
    prefetch: int

    def __str__(self) -> str:
        ahead = f"prefetch {self.prefetch} elements ahead" if self.prefetch else "no prefetch"
        return f"{self.streams} stream{'s' * (self.streams > 1)}, {ahead}"


def patterns(streams: Sequence[int] = STREAMS) -> tuple[AccessPattern, ...]:
    """Return the patterns of a kernel, the default first; only the nearest one if the user has set a pattern.

    Args:
        streams: the numbers of streams that the kernel can read, ascending from 1.

    Raises:
        ValueError: the environment variable is set, but not to a pattern.
    """
    fixed = parse_pattern(os.environ.get(VARIABLE, ""))
    if fixed is None:
        tried = tuple(AccessPattern(count, ahead) for ahead in PREFETCH for count in streams)
        return (*tried, AccessPattern(1, LONG_PREFETCH))
    return (AccessPattern(max(count for count in streams if count <= fixed.streams), fixed.prefetch),)


def parse_pattern(text: str) -> AccessPattern | None:
    """Return the pattern that the environment variable names; None if it is empty.

    Raises:
        ValueError: the text is not a pattern.

    >>> parse_pattern("2,160")
    AccessPattern(streams=2, prefetch=160)
    """
    if not text.strip():
        return None
    try:
        streams, prefetch = map(int, text.split(","))
    except ValueError:
        streams = prefetch = -1
    if streams not in STREAMS or not 0 <= prefetch <= MAX_PREFETCH:
        allowed = f"STREAMS one of {', '.join(map(str, STREAMS))}, PREFETCH from 0 to {MAX_PREFETCH} elements"
        raise ValueError(
            f'Invalid {VARIABLE}: "{text}"; it must be "STREAMS,PREFETCH" ({allowed}), for example "1,160"; '
            f"unset it to have the fastest pattern chosen by measuring"
        )
    return AccessPattern(streams, prefetch)


@final
@dataclass(frozen=True)
class CompiledKernel:
    """A kernel in machine code.

    Attributes:
        address: the address of its function.
        title: its title in reports.
        patterns: the access patterns that it offers, with the same result; the default first.
    """

    address: int
    title: str
    patterns: tuple[AccessPattern, ...]


@final
@dataclass(eq=False)
class Selection:
    """The measurements of one kernel's patterns at one size of work, and the pattern chosen by them.

    Attributes:
        kernel: the kernel.
        threads: the number of threads that run it.
        size: its launches have at least ``2**(size - 1)`` elements, and less than ``2**size``.
        times: seconds per element of every measured launch, by pattern.
        chosen: the pattern for all further launches; None while patterns are measured.
    """

    kernel: CompiledKernel
    threads: int
    size: int
    times: dict[AccessPattern, list[float]] = field(init=False)
    chosen: AccessPattern | None = None

    def __post_init__(self) -> None:
        self.times = {pattern: [] for pattern in self.kernel.patterns}
        # A new order in each round; in a fixed order, optimizers that take turns would always get the same pattern.
        shuffle = random.Random(0).shuffle
        self._rounds = [list(self.kernel.patterns) for _ in range(ROUNDS)]
        for patterns_of_round in self._rounds:
            shuffle(patterns_of_round)
        self._cold = True

    def next(self) -> AccessPattern:
        """Return the pattern for the next launch."""
        if self.chosen is not None:
            return self.chosen
        least = min(map(len, self.times.values()))
        due = (pattern for pattern in self._rounds[min(least, ROUNDS - 1)] if len(self.times[pattern]) == least)
        return next(due, self.kernel.patterns[0])

    def add(self, pattern: AccessPattern, seconds: float, elements: int) -> None:
        """Record a launch; choose a pattern once all have been measured ``ROUNDS`` times."""
        if self._cold:  # not measured: the first launch maps the pages of new state
            self._cold = False
            return
        self.times[pattern].append(seconds / elements)
        if all(len(times) >= ROUNDS for times in self.times.values()):
            self.chosen = self.fastest()

    def fastest(self) -> AccessPattern:
        """Return the pattern with the shortest time; the default if no other is clearly faster."""
        default = self.kernel.patterns[0]
        best = min(self.times, key=self.time)
        return best if self.time(best) < MARGIN * self.time(default) else default

    def time(self, pattern: AccessPattern) -> float:
        """Return a pattern's second shortest time: other programs only lengthen times, and the shortest may be luck."""
        return sorted(self.times[pattern])[:2][-1]

    def __str__(self) -> str:
        most = 2**self.size / 1e6
        workers = f"{self.threads} thread{'s' * (self.threads > 1)}"
        head = f"{self.kernel.title}, {most / 2:.3g} to {most:.3g} million elements, {workers}"
        if self.chosen is None:
            return f"{head}: still measured ({sum(map(len, self.times.values()))} launches so far)"
        times = sorted(self.times, key=self.time)
        words = ", ".join(f'"{one.streams},{one.prefetch}" {1e9 * self.time(one):.3f}' for one in times)
        return f"{head}: {self.chosen} (ns an element by {VARIABLE}: {words})"


_selections: dict[tuple[int, int, int], Selection] = {}


def selection_for(kernel: CompiledKernel, elements: int, threads: int) -> Selection | None:
    """Return the selection for a launch; None if the launch is small, or its kernel has only one pattern."""
    if elements < LARGE or len(kernel.patterns) == 1:
        return None
    key = (kernel.address, threads, elements.bit_length())
    return _selections.get(key) or _selections.setdefault(key, Selection(kernel, threads, elements.bit_length()))


def access_report() -> list[Selection]:
    """Return this process's selections of memory access patterns, printable, with the measured times.

    Empty before the first large step (2**20 elements), or if the environment variable ``GRADSTEP_ACCESS`` sets the
    pattern.
    """
    return list(_selections.values())


def measuring() -> bool:
    """Return whether a selection is still open, so that the next large steps may use slower patterns."""
    return any(selection.chosen is None for selection in access_report())


# -- threads ----------------------------------------------------------------------------------------------------------

KernelFunction = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
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
        KernelFunction(address)(job)
        return
    parallel = None if _forked else _openmp()
    if parallel is not None:
        parallel(address, job, threads, 0)
        return
    pool = _pools.get(threads)
    if pool is None:
        pool = _pools.setdefault(threads, ThreadPoolExecutor(threads - 1, "gradstep"))
    helpers = [pool.submit(KernelFunction(address), job) for _ in range(threads - 1)]
    KernelFunction(address)(job)
    for helper in helpers:
        if not helper.cancel():  # one that has not begun by now has nothing left to do
            helper.result()


# -- launches ---------------------------------------------------------------------------------------------------------

_PER_THREAD = 32_768  # elements for which another thread is worth waking; each piece counts as PIECE_COST more


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

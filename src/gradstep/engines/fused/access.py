"""How a kernel reads memory: patterns that give the same bits, and the choice of the fastest by measuring.

A large update waits for memory, and which pattern of access keeps memory busy differs between processors: reading
from two places in turns and prefetching was 10% faster on one, 6 to 15% and at times 100% slower on another. So no
constant decides. The first large launches of a kernel take every pattern in turns and are timed; the fastest is kept
for the rest of the process, separately for each kernel, number of threads and size of work (by powers of 2): nothing
is assumed of caches, and optimizers of different sizes do not disturb each other's choice. The default is the plainest
pattern, and stays where no other is clearly faster.

The choice is made once. What it depends on (the processor's own prefetching, the latency of its memory) stays the same
while a process lives, and measuring again would take slower patterns again.

Nothing here needs a lock: threads that launch at the same time only append to lists, and a forked child goes on with a
copy of what was measured.
"""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import final

VARIABLE = "GRADSTEP_ACCESS"
"""The environment variable that sets one pattern for all kernels: ``"STREAMS,PREFETCH"``."""

STREAMS = (1, 2, 4)
"""Numbers of streams that a kernel may read."""

PREFETCH = (160, 0)
"""Distances of prefetching that are tried, in elements; the default first. 320 was as fast as 160."""

FARTHEST = 4_096
"""The longest distance that may be set, in elements."""

LARGE = 1 << 20
"""Elements of a launch from which on it is measured: it takes a good part of a millisecond, the measuring less than one
microsecond. Smaller ones take the default."""

ROUNDS = 7
"""How often each pattern is measured."""

MARGIN = 0.98
"""Another pattern replaces the default if it takes at most this share of the default's time."""


@final
@dataclass(frozen=True)
class AccessPattern:
    """How the elements of a tensor are visited.

    Attributes:
        streams: the number of places, equally far apart, that are read in turns.
        prefetch: how many elements ahead of the one in hand the cache lines are prefetched; 0 for no prefetching.
    """

    streams: int
    prefetch: int

    def __str__(self) -> str:
        ahead = f"prefetch {self.prefetch} elements ahead" if self.prefetch else "no prefetch"
        return f"{self.streams} stream{'s' * (self.streams > 1)}, {ahead}"


def patterns(streams: Sequence[int] = STREAMS) -> tuple[AccessPattern, ...]:
    """The patterns that a kernel offers, its default first; only the nearest one if the user has set a pattern.

    Args:
        streams: the numbers of streams that the kernel can read, ascending from 1.

    Raises:
        ValueError: if the environment variable is set, but to no pattern.
    """
    fixed = pattern_from(os.environ.get(VARIABLE, ""))
    if fixed is None:
        return tuple(AccessPattern(count, ahead) for ahead in PREFETCH for count in streams)
    return (AccessPattern(min(fixed.streams, max(streams)), fixed.prefetch),)


def pattern_from(text: str) -> AccessPattern | None:
    """The pattern that the environment variable names; None if it is empty.

    Raises:
        ValueError: if it names none.

    >>> pattern_from("2,160")
    AccessPattern(streams=2, prefetch=160)
    """
    if not text.strip():
        return None
    try:
        streams, prefetch = map(int, text.split(","))
    except ValueError:
        streams = prefetch = -1
    if streams not in STREAMS or not 0 <= prefetch <= FARTHEST:
        allowed = f"STREAMS one of {', '.join(map(str, STREAMS))}, PREFETCH from 0 to {FARTHEST} elements"
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
        address: of its function.
        title: what it does, for reports.
        patterns: the access patterns that it can take, with the same result; the default first.
    """

    address: int
    title: str
    patterns: tuple[AccessPattern, ...]


@final
@dataclass(eq=False)
class Selection:
    """The measurements of one kernel's patterns at one size of work, and what they led to.

    Attributes:
        kernel: the kernel.
        threads: how many threads run it.
        size: its launches have at least ``2**(size - 1)`` elements, and less than ``2**size``.
        times: seconds an element of every launch that was measured.
        chosen: the pattern that is taken from now on; None while they are measured.
    """

    kernel: CompiledKernel
    threads: int
    size: int
    times: dict[AccessPattern, list[float]] = field(init=False)
    chosen: AccessPattern | None = None

    def __post_init__(self) -> None:
        self.times = {pattern: [] for pattern in self.kernel.patterns}
        # In another order in each round, or optimizers that take turns would be measured with one pattern each.
        shuffle = random.Random(0).shuffle
        self._rounds = [list(self.kernel.patterns) for _ in range(ROUNDS)]
        for patterns_of_round in self._rounds:
            shuffle(patterns_of_round)
        self._cold = True

    def next(self) -> AccessPattern:
        """The pattern for the next launch."""
        if self.chosen is not None:
            return self.chosen
        least = min(map(len, self.times.values()))
        left = (pattern for pattern in self._rounds[min(least, ROUNDS - 1)] if len(self.times[pattern]) == least)
        return next(left, self.kernel.patterns[0])

    def add(self, pattern: AccessPattern, seconds: float, elements: int) -> None:
        """Take a launch into account; choose when all patterns have been measured often enough."""
        if self._cold:  # fresh state's pages are mapped during the first launch
            self._cold = False
            return
        self.times[pattern].append(seconds / elements)
        if all(len(times) >= ROUNDS for times in self.times.values()):
            self.chosen = self.fastest()

    def fastest(self) -> AccessPattern:
        """The pattern with the shortest time; the default if no other is clearly faster."""
        default = self.kernel.patterns[0]
        best = min(self.times, key=self.time)
        return best if self.time(best) < MARGIN * self.time(default) else default

    def time(self, pattern: AccessPattern) -> float:
        """A pattern's time: the second shortest, for other programs only lengthen times, and one may be luck."""
        return sorted(self.times[pattern])[:2][-1]

    @property
    def _workers(self) -> str:
        return f"{self.threads} thread{'s' * (self.threads > 1)}"

    def __str__(self) -> str:
        most = 2**self.size / 1e6
        head = f"{self.kernel.title}, {most / 2:.3g} to {most:.3g} million elements, {self._workers}"
        if self.chosen is None:
            return f"{head}: still measured ({sum(map(len, self.times.values()))} launches so far)"
        times = sorted(self.times, key=self.time)
        words = ", ".join(f'"{one.streams},{one.prefetch}" {1e9 * self.time(one):.3f}' for one in times)
        return f"{head}: {self.chosen} (ns an element by {VARIABLE}: {words})"


_selections: dict[tuple[int, int, int], Selection] = {}


def selection_for(kernel: CompiledKernel, elements: int, threads: int) -> Selection | None:
    """The selection that a launch belongs to; None if there is nothing to select or the launch is small."""
    if elements < LARGE or len(kernel.patterns) == 1:
        return None
    key = (kernel.address, threads, elements.bit_length())
    return _selections.get(key) or _selections.setdefault(key, Selection(kernel, threads, elements.bit_length()))


def access_report() -> list[Selection]:
    """How this process's kernels read memory: each selection, printable, with the times that led to it.

    Empty before the first large step (2**20 elements), or where the environment variable ``GRADSTEP_ACCESS`` sets the
    pattern.
    """
    return list(_selections.values())


def measuring() -> bool:
    """Whether any selection is still open: the next large steps may take slower patterns."""
    return any(selection.chosen is None for selection in access_report())

"""Walks through the windows of a step: one is in memory while the next is read ahead and the one before written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import final

from gradstep.storage.pages.file import PageFile
from gradstep.storage.pages.layout import HUGE
from gradstep.storage.pages.memory import available_memory
from gradstep.storage.pages.windows import Window


@final
class Pager:
    """Has each window's state in memory when its turn comes, and no more state than was planned for.

    A window that stays is left alone. Of the others one is in memory at a time: when window k is computed, it is
    released, and window k + 1 mapped. Reading from the disk and writing to it go on by themselves meanwhile.

    There is no thread for this. What it could do beside the computation, changing page tables and marking blocks as
    changed, is work for a processor and not for a disk; where all processors compute, a thread more made a step twice
    as long (`benchmarks/paged.py`, 2 cores).

    Args:
        file: the pages.
        windows: what `plan_windows` made of the file's layout.
        from_disk: whether the state has to come from the disk at each step, so that the next window should be on its
            way to memory, and a released one on its way back, while one is computed. State that the system keeps in its
            cache needs neither, and is written less often if the system decides when. By default this is so for a
            file of more than half of the memory available.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import mkdtemp
        >>> from gradstep.storage.pages import Column, Item, plan_windows
        >>> items = [Item(1 << 20, (Column("w"),))]
        >>> with PageFile.create(Path(mkdtemp()) / "state.pages", [("w", "float32", 1 << 20)]) as file:
        ...     pager = Pager(file, plan_windows(file.layout, items, budget=2 << 20))
        ...     state = file.array("w")
        ...     file.begin(step=1)
        ...     for window in pager.windows():
        ...         for piece in window.pieces:
        ...             state[piece.start : piece.stop] += 1
        ...     file.commit(step=1)
        ...     bool((state == 1).all())
        True
    """

    def __init__(self, file: PageFile, windows: Sequence[Window], *, from_disk: bool | None = None) -> None:
        self._residency = file.residency
        self._windows = tuple(windows)
        self._blocks_to_release = _blocks_to_release(self._windows)
        self._from_disk = _is_scarce(file.layout.file_bytes) if from_disk is None else from_disk

    def windows(self) -> Iterator[Window]:
        """Every window once, in order. What was computed in one must be done when the next is asked for.

        Leaving early, by an exception or by closing the iterator, releases what is in memory.
        """
        for number, window in enumerate(self._windows):
            self._map(number)
            try:
                if self._from_disk:
                    self._read_ahead(number + 1)
                yield window
            finally:
                self._release(number)

    def _read_ahead(self, number: int) -> None:
        if number < len(self._windows) and not self._windows[number].stays:
            self._residency.read_ahead(self._windows[number].ranges)

    def _map(self, number: int) -> None:
        if not self._windows[number].stays:
            self._residency.map(self._windows[number].ranges)

    def _release(self, number: int) -> None:
        if not self._windows[number].stays:
            self._residency.release(self._blocks_to_release[number], write_back=self._from_disk)


def _blocks_to_release(windows: Sequence[Window]) -> list[list[tuple[int, int]]]:
    """What each window gives up: blocks of 2 MiB, as a part of one would be torn from its mapping, without those that
    the next window is computing in.
    """
    blocks = [_blocks(window) for window in windows]
    return [_join_blocks(mine - following) for mine, following in zip(blocks, [*blocks[1:], set()])]


def _blocks(window: Window) -> set[int]:
    """The numbers of the blocks that a window lies in."""
    return {block for begin, end in window.ranges for block in range(begin // HUGE, -(-end // HUGE))}


def _join_blocks(blocks: set[int]) -> list[tuple[int, int]]:
    """Return the byte ranges of blocks; neighbouring blocks are joined."""
    joined: list[tuple[int, int]] = []
    for block in sorted(blocks):
        if joined and joined[-1][1] == block * HUGE:
            joined[-1] = (joined[-1][0], (block + 1) * HUGE)
        else:
            joined.append((block * HUGE, (block + 1) * HUGE))
    return joined


def _is_scarce(size: int) -> bool:
    """Whether so many bytes are more than half of the available memory."""
    available = available_memory()
    return available is not None and size > available // 2

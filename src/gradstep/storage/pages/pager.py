"""Walks through the windows of a step, with the next one read ahead and the one before written behind."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import final

from gradstep.storage.pages.file import PageFile
from gradstep.storage.pages.layout import HUGE
from gradstep.storage.pages.memory import available_memory
from gradstep.storage.pages.windows import Window


@final
class Pager:
    """Has each window's state in memory when its turn comes, and no more state than was planned for.

    A window that stays is left alone. The others are read ahead and released by a background thread that lives as
    long as the walk: while window k is computed, it releases window k − 1, then reads window k + 1.

    Args:
        file: the pages.
        windows: what `plan_windows` made of the file's layout.
        write_behind: whether a released window starts on its way to the disk at once. The system does that by itself
            when it sees fit, and state that is changed again soon is written less often; so by default only for a
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

    def __init__(self, file: PageFile, windows: Sequence[Window], *, write_behind: bool | None = None) -> None:
        self._residency = file.residency
        self._windows = tuple(windows)
        self._leaving = _leaving(self._windows)
        self._write_behind = _scarce(file.layout.file_bytes) if write_behind is None else write_behind

    def windows(self) -> Iterator[Window]:
        """Every window once, in order. What was computed in one must be done when the next is asked for.

        Leaving early, by an exception or by closing the iterator, releases what was read and ends the thread.

        Raises:
            Exception: whatever befell the background thread.
        """
        if all(window.stays for window in self._windows):
            yield from self._windows
            return
        present: tuple[int, ...] = ()
        with ThreadPoolExecutor(1, thread_name_prefix="gradstep-pager") as background:
            try:
                turn = background.submit(self._read, 0)
                for number, window in enumerate(self._windows):
                    turn.result()
                    present = (number, number + 1)
                    turn = background.submit(self._turn, number)
                    yield window
                turn.result()
            finally:
                for number in present:
                    background.submit(self._release, number)

    def _turn(self, number: int) -> None:
        """What the background thread does while a window is computed."""
        self._release(number - 1)
        self._read(number + 1)

    def _read(self, number: int) -> None:
        if number < len(self._windows) and not self._windows[number].stays:
            self._residency.will_need(self._windows[number].ranges)

    def _release(self, number: int) -> None:
        if 0 <= number < len(self._windows) and not self._windows[number].stays:
            self._residency.release(self._leaving[number], write_back=self._write_behind)


def _leaving(windows: Sequence[Window]) -> list[list[tuple[int, int]]]:
    """What each window gives up: blocks of 2 MiB, as a part of one would be torn from its mapping, without those that
    the next window is computing in.
    """
    blocks = [_blocks(window) for window in windows]
    return [_joined(mine - following) for mine, following in zip(blocks, [*blocks[1:], set()])]


def _blocks(window: Window) -> set[int]:
    """The numbers of the blocks that a window lies in."""
    return {block for begin, end in window.ranges for block in range(begin // HUGE, -(-end // HUGE))}


def _joined(blocks: set[int]) -> list[tuple[int, int]]:
    """The byte ranges of blocks, neighbours made one."""
    joined: list[tuple[int, int]] = []
    for block in sorted(blocks):
        if joined and joined[-1][1] == block * HUGE:
            joined[-1] = (joined[-1][0], (block + 1) * HUGE)
        else:
            joined.append((block * HUGE, (block + 1) * HUGE))
    return joined


def _scarce(size: int) -> bool:
    """Whether memory will not hold this much for long."""
    available = available_memory()
    return available is not None and size > available // 2

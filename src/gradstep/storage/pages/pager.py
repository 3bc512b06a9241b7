"""Walk through the windows of a step: one is in memory while the next is read ahead and the previous one is written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import final

from gradstep.storage.pages.file import PageFile
from gradstep.storage.pages.layout import HUGE
from gradstep.storage.pages.memory import available_memory
from gradstep.storage.pages.windows import PageWindow


@final
class Pager:
    """Maps each window's state before its computation and releases it after, within the planned memory.

    Windows that stay are never released. Of the others one is in memory at a time: after the computation of window k,
    it is released, and window k + 1 is mapped. Meanwhile the system reads from the disk and writes to it.

    There is no thread for this. It would change page tables and mark blocks as changed, which is work for a processor
    and not for the disk; with all processors computing, a further thread made a step twice as long
    (`benchmarks/paged.py`, 2 cores).

    Args:
        file: the page file.
        windows: the result of `plan_windows` for the file's layout.
        from_disk: whether the state is read from the disk at each step: then, during a computation, the next window is
            read ahead and the released one is written. State in the system's cache needs neither, and is written less
            often if the system decides. By default True for a file larger than half of the available memory.

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

    def __init__(self, file: PageFile, windows: Sequence[PageWindow], *, from_disk: bool | None = None) -> None:
        self._residency = file.residency
        self._windows = tuple(windows)
        self._blocks_to_release = _blocks_to_release(self._windows)
        self._from_disk = _is_scarce(file.layout.file_bytes) if from_disk is None else from_disk

    def windows(self) -> Iterator[PageWindow]:
        """Yield every window once, in order; finish the computation of one before requesting the next.

        If the loop ends early, by an exception or by closing the iterator, the window in memory is released.
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


def _blocks_to_release(windows: Sequence[PageWindow]) -> list[list[tuple[int, int]]]:
    """Return the byte ranges that each window releases: whole blocks of 2 MiB, without those of the next window.

    Releasing a part of a block would break up its mapping.
    """
    blocks = [_blocks(window) for window in windows]
    return [_join_blocks(mine - following) for mine, following in zip(blocks, [*blocks[1:], set()])]


def _blocks(window: PageWindow) -> set[int]:
    """Return the indices of the blocks of 2 MiB that a window touches."""
    return {block for begin, end in window.ranges for block in range(begin // HUGE, -(-end // HUGE))}


def _join_blocks(blocks: set[int]) -> list[tuple[int, int]]:
    """Return the byte ranges of blocks; neighbouring blocks are joined."""
    ranges: list[tuple[int, int]] = []
    for block in sorted(blocks):
        if ranges and ranges[-1][1] == block * HUGE:
            ranges[-1] = (ranges[-1][0], (block + 1) * HUGE)
        else:
            ranges.append((block * HUGE, (block + 1) * HUGE))
    return ranges


def _is_scarce(size: int) -> bool:
    """Return whether so many bytes are more than half of the available memory."""
    available = available_memory()
    return available is not None and size > available // 2

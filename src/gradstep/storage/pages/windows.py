"""Split a step's work into windows, and walk through them: only a few are in memory at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import final

from gradstep.storage.pages.file import PageFile
from gradstep.storage.pages.layout import HUGE, PAGE, Layout, round_up
from gradstep.storage.pages.memory import available_memory
from gradstep.storage.sizes import show_bytes

GRANULE = 16_384
"""Default of the elements that are never split: a chunk of the fused kernel, 64 blocks of 8-bit state."""

_SHARE = 4
"""A window takes a quarter of the budget; the rest is for state that stays. (With smaller windows more state could
stay, but their larger number costs more than that saves.)"""


@final
@dataclass(frozen=True)
class PageColumn:
    """An array of the page file that belongs to a parameter, element by element or block by block.

    Attributes:
        name: its name in the layout.
        per: how many elements of the parameter one of its elements covers: 1, or 256 for the scales of 8-bit state.
    """

    name: str
    per: int = 1

    def part(self, start: int, stop: int) -> slice:
        """Return the slice of the array for elements [start, stop) of the parameter.

        Example:
            >>> PageColumn("scales", per=256).part(512, 1000)
            slice(2, 4, None)
        """
        return slice(start // self.per, -(-stop // self.per))


@final
@dataclass(frozen=True)
class Item:
    """The state of a parameter.

    Attributes:
        elements: elements of the parameter.
        columns: its arrays in the page file.
        whole: never split it (for a rule that needs more than one element at a time, or arrays of another length).
    """

    elements: int
    columns: tuple[PageColumn, ...]
    whole: bool = False


@final
@dataclass(frozen=True)
class Piece:
    """Elements [start, stop) of the parameter with the index ``item`` among the items."""

    item: int
    start: int
    stop: int


@final
@dataclass(frozen=True)
class PageWindow:
    """A part of a step's work with its state in memory together.

    Attributes:
        pieces: the work, in order.
        ranges: the bytes of the file that the work reads and writes: [begin, end), ascending and disjoint.
        stays: whether they are never released, because the budget has room for them.
    """

    pieces: tuple[Piece, ...]
    ranges: tuple[tuple[int, int], ...]
    stays: bool

    @property
    def nbytes(self) -> int:
        """Bytes of the file."""
        return sum(end - begin for begin, end in self.ranges)


def plan_windows(
    layout: Layout, items: Sequence[Item], budget: int, *, granule: int = GRANULE
) -> tuple[PageWindow, ...]:
    """Split a step's work into windows so that the state in memory stays within a budget.

    State that fits is a single window that stays in memory. Otherwise a window takes a quarter of the budget, one is in
    memory at a time, and the first windows stay with the rest of the budget. (Each step walks through all state in the
    same order, so the most recently used windows, which a cache would keep, are those needed last.)

    Args:
        layout: the layout of the page file.
        items: the work, in order; best in the layout's order, so that a window is one range.
        budget: bytes of state that may be in memory.
        granule: number of elements that are never split; a multiple of every column's `per`.

    Raises:
        ValueError: the smallest possible window exceeds the budget; the message has a sufficient budget.

    Example:
        >>> layout = Layout.of([("a", "float32", 1 << 20), ("b", "float32", 1 << 20)])
        >>> items = [Item(1 << 20, (PageColumn("a"),)), Item(1 << 20, (PageColumn("b"),))]
        >>> [len(window.pieces) for window in plan_windows(layout, items, budget=8 << 20)]
        [2]
        >>> windows = plan_windows(layout, items, budget=4 << 20)
        >>> len(windows), windows[0].nbytes, sum(window.stays for window in windows)
        (8, 1048576, 3)
    """
    everything = _make_window(layout, items, [Piece(n, 0, item.elements) for n, item in enumerate(items)], stays=True)
    if everything.nbytes <= budget:
        return (everything,)
    parts = split_work(layout, items, budget // _SHARE, granule=granule)
    windows = [_make_window(layout, items, pieces, stays=False) for pieces in parts]
    largest = max(window.nbytes for window in windows)
    check_budget(budget, largest)
    return tuple(_mark_staying(windows, budget - largest))


def split_work(
    layout: Layout, items: Sequence[Item], limit: int, *, granule: int = GRANULE
) -> tuple[tuple[Piece, ...], ...]:
    """Split all work into parts with at most `limit` bytes of state, except for pieces that cannot be split further.

    Args:
        layout, items, granule: as in `plan_windows`.
        limit: most bytes of state of a part.
    """
    return tuple(tuple(part) for part in _pack(_split_items(layout, items, limit, granule), limit))


def check_budget(budget: int, smallest: int) -> None:
    """Refuse a budget below the smallest windows that the work can be split into.

    Raises:
        ValueError: the budget is too small; the message has a sufficient one.
    """
    if smallest > budget:
        raise ValueError(
            f"Invalid page budget: {show_bytes(budget)} is less than the smallest window that the parameters can be "
            f"parted into; give at least {show_bytes(smallest)} ({smallest:,} bytes)"
        )


def _split_items(layout: Layout, items: Sequence[Item], limit: int, granule: int) -> Iterator[tuple[Piece, int]]:
    """Yield every piece of work with its bytes; items above the limit are split where possible."""
    for number, item in enumerate(items):
        nbytes = sum(end - begin for begin, end in _byte_ranges(layout, item, 0, item.elements))
        length = max(item.elements, 1)
        if nbytes > limit and not item.whole:
            length = limit * item.elements // nbytes
            # If the limit allows it, columns are split at the boundaries of blocks of 2 MiB.
            unit = round_up(_elements_per_block(layout, item), granule)
            length -= length % (unit if length >= unit else granule)
            length = max(length, granule)
        for start in range(0, item.elements, length):
            stop = min(start + length, item.elements)
            yield Piece(number, start, stop), nbytes * (stop - start) // item.elements


def _elements_per_block(layout: Layout, item: Item) -> int:
    """Return the elements whose state fills whole blocks of 2 MiB in every column with one entry per element."""
    sizes = [layout.by_name[column.name].dtype.itemsize for column in item.columns if column.per == 1]
    return HUGE // min(sizes, default=1)


def _pack(pieces: Iterable[tuple[Piece, int]], limit: int) -> Iterator[list[Piece]]:
    """Group neighbouring pieces into windows, each within the limit of bytes."""
    window: list[Piece] = []
    window_bytes = 0
    for piece, nbytes in pieces:
        if window and window_bytes + nbytes > limit:
            yield window
            window, window_bytes = [], 0
        window.append(piece)
        window_bytes += nbytes
    if window:
        yield window


def _mark_staying(windows: Iterable[PageWindow], room: int) -> Iterator[PageWindow]:
    """Mark the first windows to stay in memory, as many as there is room for."""
    for window in windows:
        room -= window.nbytes
        yield PageWindow(window.pieces, window.ranges, stays=room >= 0)


def _make_window(layout: Layout, items: Sequence[Item], pieces: Sequence[Piece], *, stays: bool) -> PageWindow:
    """Make the window of these pieces; ranges less than a page apart are merged."""
    merged: list[tuple[int, int]] = []
    parts = (_byte_ranges(layout, items[piece.item], piece.start, piece.stop) for piece in pieces)
    for begin, end in sorted(each for ranges in parts for each in ranges):
        if merged and begin - merged[-1][1] < PAGE:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((begin, end))
    return PageWindow(tuple(pieces), tuple(merged), stays)


def _byte_ranges(layout: Layout, item: Item, start: int, stop: int) -> Iterator[tuple[int, int]]:
    """Yield the byte ranges of the file with the state of elements [start, stop)."""
    for column in item.columns:
        begin, end = layout.ranges[column.name]
        if not item.whole:
            size = layout.by_name[column.name].dtype.itemsize
            part = column.part(start, stop)
            begin, end = begin + part.start * size, min(begin + part.stop * size, end)
        if begin < end:
            yield begin, end


# -- a step -----------------------------------------------------------------------------------------------------------


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
        >>> from gradstep.storage.pages import PageColumn, Item, plan_windows
        >>> items = [Item(1 << 20, (PageColumn("w"),))]
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
        residency, following = self._residency, (*self._windows[1:], None)
        for window, blocks, after in zip(self._windows, self._blocks_to_release, following, strict=True):
            if not window.stays:
                residency.map(window.ranges)
            try:
                if self._from_disk and after is not None and not after.stays:
                    residency.read_ahead(after.ranges)
                yield window
            finally:
                if not window.stays:
                    residency.release(blocks, write_back=self._from_disk)


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

"""A step's work in windows, so that only a few of them need be in memory at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import final

from gradstep.storage.pages.layout import HUGE, PAGE, Layout, round_up
from gradstep.storage.sizes import show_bytes

GRANULE = 16_384
"""Elements that are never parted, unless told otherwise: a chunk of the fused kernel, 64 blocks of 8-bit state."""

_SHARE = 4
"""A window takes this part of the budget; the rest holds state that stays. (Smaller windows let more of it stay, and
are more in number, which costs more than that saves.)"""


@final
@dataclass(frozen=True)
class Column:
    """An array of the page file that belongs to a parameter, element by element or block by block.

    Attributes:
        name: its name in the layout.
        per: how many elements of the parameter one of its elements covers: 1, or 256 for the scales of 8-bit state.
    """

    name: str
    per: int = 1

    def part(self, start: int, stop: int) -> slice:
        """The array's elements that belong to elements [start, stop) of the parameter.

        Example:
            >>> Column("scales", per=256).part(512, 1000)
            slice(2, 4, None)
        """
        return slice(start // self.per, -(-stop // self.per))


@final
@dataclass(frozen=True)
class Item:
    """A parameter's state.

    Attributes:
        elements: elements of the parameter.
        columns: its arrays in the page file.
        whole: never part it (a rule that needs more than one element at a time, or arrays of another length).
    """

    elements: int
    columns: tuple[Column, ...]
    whole: bool = False


@final
@dataclass(frozen=True)
class Piece:
    """Elements [start, stop) of the parameter with this number among the items."""

    item: int
    start: int
    stop: int


@final
@dataclass(frozen=True)
class Window:
    """Work whose state is in memory together.

    Attributes:
        pieces: the work, in order.
        ranges: the bytes of the file that it reads and writes: [begin, end), in order, apart from each other.
        stays: whether they are never released, as the budget has room for them.
    """

    pieces: tuple[Piece, ...]
    ranges: tuple[tuple[int, int], ...]
    stays: bool

    @property
    def nbytes(self) -> int:
        """Bytes of the file."""
        return sum(end - begin for begin, end in self.ranges)


def plan_windows(layout: Layout, items: Sequence[Item], budget: int, *, granule: int = GRANULE) -> tuple[Window, ...]:
    """Part a step's work into windows such that the state in memory stays within a budget.

    State that fits is one window that stays: nothing ever comes or goes. Otherwise a window takes a quarter of the
    budget, one of them is in memory at a time, and the first ones stay for good with the rest of the budget. (A walk
    that starts over each step finds nothing of what it kept most recently, as a cache would; it finds what it never
    gave up.)

    Args:
        layout: the page file's.
        items: the work, in order; best in the layout's order, so that a window is one range.
        budget: bytes of state that may be in memory.
        granule: elements that are parted nowhere; a multiple of every column's `per`.

    Raises:
        ValueError: if the smallest possible window exceeds the budget; the message says which would do.

    Example:
        >>> layout = Layout.of([("a", "float32", 1 << 20), ("b", "float32", 1 << 20)])
        >>> items = [Item(1 << 20, (Column("a"),)), Item(1 << 20, (Column("b"),))]
        >>> [len(window.pieces) for window in plan_windows(layout, items, budget=8 << 20)]
        [2]
        >>> windows = plan_windows(layout, items, budget=4 << 20)
        >>> len(windows), windows[0].nbytes, sum(window.stays for window in windows)
        (8, 1048576, 3)
    """
    everything = _window(layout, items, [Piece(n, 0, item.elements) for n, item in enumerate(items)], stays=True)
    if everything.nbytes <= budget:
        return (everything,)
    parts = parted(layout, items, budget // _SHARE, granule=granule)
    windows = [_window(layout, items, pieces, stays=False) for pieces in parts]
    largest = max(window.nbytes for window in windows)
    check_budget(budget, largest)
    return tuple(_mark_staying(windows, budget - largest))


def parted(
    layout: Layout, items: Sequence[Item], limit: int, *, granule: int = GRANULE
) -> tuple[tuple[Piece, ...], ...]:
    """All work in parts whose state has at most `limit` bytes, as far as it can be parted.

    Args:
        layout, items, granule: as in `plan_windows`.
        limit: bytes of state of a part.
    """
    return tuple(tuple(part) for part in _pack(_pieces(layout, items, limit, granule), limit))


def check_budget(budget: int, smallest: int) -> None:
    """Refuse a budget that does not hold the smallest windows that the work can be parted into.

    Raises:
        ValueError: saying which budget would do.
    """
    if smallest > budget:
        raise ValueError(
            f"Invalid page budget: {show_bytes(budget)} is less than the smallest window that the parameters can be "
            f"parted into; give at least {show_bytes(smallest)} ({smallest:,} bytes)"
        )


def _pieces(layout: Layout, items: Sequence[Item], limit: int, granule: int) -> Iterator[tuple[Piece, int]]:
    """Every piece of work with its bytes, none above the limit that can be parted."""
    for number, item in enumerate(items):
        nbytes = sum(end - begin for begin, end in _ranges(layout, item, 0, item.elements))
        length = max(item.elements, 1)
        if nbytes > limit and not item.whole:
            length = limit * item.elements // nbytes
            # Where there is room, columns are parted where blocks of 2 MiB are.
            unit = round_up(_elements_per_block(layout, item), granule)
            length -= length % (unit if length >= unit else granule)
            length = max(length, granule)
        for start in range(0, item.elements, length):
            stop = min(start + length, item.elements)
            yield Piece(number, start, stop), nbytes * (stop - start) // item.elements


def _elements_per_block(layout: Layout, item: Item) -> int:
    """Elements whose state fills blocks of 2 MiB in every column that has one element for each."""
    sizes = [layout.by_name[column.name].dtype.itemsize for column in item.columns if column.per == 1]
    return HUGE // min(sizes, default=1)


def _pack(pieces: Iterable[tuple[Piece, int]], limit: int) -> Iterator[list[Piece]]:
    """Group neighbouring pieces into windows, each within the limit of bytes."""
    window: list[Piece] = []
    filled = 0
    for piece, nbytes in pieces:
        if window and filled + nbytes > limit:
            yield window
            window, filled = [], 0
        window.append(piece)
        filled += nbytes
    if window:
        yield window


def _mark_staying(windows: Iterable[Window], room: int) -> Iterator[Window]:
    """Mark the first windows to stay in memory, as many as there is room for."""
    for window in windows:
        room -= window.nbytes
        yield Window(window.pieces, window.ranges, stays=room >= 0)


def _window(layout: Layout, items: Sequence[Item], pieces: Sequence[Piece], *, stays: bool) -> Window:
    """The window of these pieces, with ranges that touch made one."""
    merged: list[tuple[int, int]] = []
    found = (_ranges(layout, items[piece.item], piece.start, piece.stop) for piece in pieces)
    for begin, end in sorted(each for ranges in found for each in ranges):
        if merged and begin - merged[-1][1] < PAGE:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((begin, end))
    return Window(tuple(pieces), tuple(merged), stays)


def _ranges(layout: Layout, item: Item, start: int, stop: int) -> Iterator[tuple[int, int]]:
    """Bytes of the file that hold the state of elements [start, stop)."""
    for column in item.columns:
        begin, end = layout.ranges[column.name]
        if not item.whole:
            size = layout.by_name[column.name].dtype.itemsize
            part = column.part(start, stop)
            begin, end = begin + part.start * size, min(begin + part.stop * size, end)
        if begin < end:
            yield begin, end

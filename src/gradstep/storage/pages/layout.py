"""The layout of a page file: its arrays and the position of each."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import final

import numpy as np
from numpy.typing import DTypeLike

PAGE = 4096
"""The unit of mapping in bytes: the least that a processor can map or release."""

HUGE = 1 << 21
"""Bytes that the processor maps at once where the file system keeps a file in memory in blocks of this size."""

_SHOWN = 5


def round_up(number: int, unit: int) -> int:
    """Return the smallest multiple of `unit` that is ≥ `number`."""
    return -(-number // unit) * unit


@final
@dataclass(frozen=True)
class Entry:
    """One array: its name, element type, and number of elements."""

    name: str
    dtype: np.dtype[np.generic]
    count: int

    @property
    def nbytes(self) -> int:
        """Bytes of its elements."""
        return self.count * self.dtype.itemsize

    @property
    def alignment(self) -> int:
        """Alignment of its position in bytes: small arrays are packed, large ones can be mapped in large blocks.

        64 (a cache line) below 16 KiB, so that 10,000 tiny arrays do not take a page each; a page above; 2 MiB from
        64 MiB on, where at most 3% of the bytes are lost.
        """
        if self.nbytes < 4 * PAGE:
            return 64
        return PAGE if self.nbytes < 32 * HUGE else HUGE


@final
@dataclass(frozen=True)
class Layout:
    """The arrays of a page file, in the order of a step.

    Example:
        >>> layout = Layout.of([("w.exp_avg", "float32", 1000), ("w.step", "int64", 1)])
        >>> layout.ranges["w.step"][0] - layout.ranges["w.exp_avg"][0]  # packed: 4,000 bytes, and the next multiple of 64
        4032
    """  # noqa: E501 (an example's line)

    entries: tuple[Entry, ...]

    @classmethod
    def of(cls, arrays: Iterable[tuple[str, DTypeLike, int]]) -> Layout:
        """Make the layout of (name, dtype, number of elements), each name once.

        Raises:
            ValueError: a name that comes twice, a negative number of elements, or elements that are objects.
        """
        entries = tuple(Entry(name, np.dtype(dtype), int(count)) for name, dtype, count in arrays)
        seen: set[str] = set()
        for entry in entries:
            if entry.name in seen:
                raise ValueError(f"Invalid layout: {entry.name!r} comes twice")
            if entry.count < 0:
                raise ValueError(f"Invalid layout: {entry.name!r} has {entry.count} elements")
            if entry.dtype.hasobject or entry.dtype.names:
                raise ValueError(f"Invalid layout: {entry.name!r} has elements of {entry.dtype}; give a number type")
            seen.add(entry.name)
        return cls(entries)

    @classmethod
    def from_table(cls, table: bytes) -> Layout:
        """Return the layout with this `table`."""
        return cls.of(json.loads(table))

    @cached_property
    def table(self) -> bytes:
        """The canonical text: JSON of [name, dtype with its byte order, count], in order."""
        rows = [[entry.name, entry.dtype.str, entry.count] for entry in self.entries]
        return json.dumps(rows, separators=(",", ":")).encode("ascii")

    @property
    def checksum(self) -> str:
        """SHA-256 of the canonical text."""
        return hashlib.sha256(self.table).hexdigest()

    @cached_property
    def by_name(self) -> dict[str, Entry]:
        """The arrays by name."""
        return {entry.name: entry for entry in self.entries}

    @cached_property
    def ranges(self) -> dict[str, tuple[int, int]]:
        """The range of each array in the file: bytes [begin, end)."""
        end = round_up(PAGE + len(self.table), PAGE)
        ranges = {}
        for entry in self.entries:
            begin = round_up(end, entry.alignment)
            end = begin + entry.nbytes
            ranges[entry.name] = (begin, end)
        return ranges

    @property
    def file_bytes(self) -> int:
        """Bytes of the file: whole pages, from 2 MiB on whole blocks of 2 MiB."""
        end = max((end for _, end in self.ranges.values()), default=PAGE + len(self.table))
        return round_up(end, PAGE if end < HUGE else HUGE)

    def difference(self, other: Layout) -> list[str]:
        """Return the differences of another layout from this one, the expected, as lines of text; empty if none."""
        mine, theirs = self.by_name, other.by_name
        both = [name for name in mine if name in theirs]
        lines = [
            _list_names("missing", [name for name in mine if name not in theirs]),
            _list_names("unexpected", [name for name in theirs if name not in mine]),
            _list_names(
                "length differs",
                [
                    f"{name} (expected {mine[name].count:,}, found {theirs[name].count:,})"
                    for name in both
                    if mine[name].count != theirs[name].count
                ],
            ),
            _list_names(
                "dtype differs",
                [
                    f"{name} (expected {_dtype_name(mine[name].dtype)}, found {_dtype_name(theirs[name].dtype)})"
                    for name in both
                    if mine[name].dtype != theirs[name].dtype
                ],
            ),
        ]
        lines = [line for line in lines if line]
        if not lines and self.entries != other.entries:
            at = next(n for n, (a, b) in enumerate(zip(self.entries, other.entries)) if a != b)
            lines = [
                f"the same arrays in another order, from number {at} on: "
                f"expected {self.entries[at].name}, found {other.entries[at].name}"
            ]
        return lines


def _list_names(what: str, names: Sequence[str]) -> str:
    """Return a heading with the first few names; empty if there are none."""
    if not names:
        return ""
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return f"{what}: {', '.join(names[:_SHOWN])}{more}"


def _dtype_name(dtype: np.dtype[np.generic]) -> str:
    """Return a dtype's name; it mentions a byte order other than this machine's."""
    return dtype.name if dtype.isnative else f"{dtype.name} of the other byte order"

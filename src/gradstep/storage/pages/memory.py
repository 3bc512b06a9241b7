"""Control which bytes of a mapped file are in this process's memory, by calls to the operating system."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import final

import numpy as np
import numpy.typing as npt

from gradstep.storage.pages.layout import PAGE, round_up

# From linux/mman.h and linux/fs.h. Python's `mmap.madvise` lacks some of them, and holds Python's lock during the call.
_DONTNEED, _WILLNEED, _HUGEPAGE, _POPULATE_WRITE = 4, 3, 14, 23
_SYNC_FILE_RANGE_WRITE = 2

Ranges = Iterable[tuple[int, int]]
"""Byte ranges [begin, end) of a file."""


@final
class Residency:
    """Maps ranges of a file into memory and releases them; contents stay, a released range is read again on access.

    The calls act on Linux only; elsewhere they do nothing, and the operating system decides what stays in memory.

    Args:
        mapping: the whole file, mapped shared and writable.
        fileno: the file's descriptor.
    """

    def __init__(self, mapping: npt.NDArray[np.uint8], fileno: int) -> None:
        self._mapping = mapping  # keeps the addresses mapped
        self._fileno = fileno
        self._length = round_up(mapping.nbytes, PAGE)
        self._libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
        # Where the file system supports it, read blocks of 2 MiB, which are mapped at once and not in 512 pages.
        # Older kernels refuse, which only costs speed.
        self._advise(0, self._length, _HUGEPAGE)

    def read_ahead(self, ranges: Ranges) -> None:
        """Start to read these ranges from the disk, unless they are in the system's cache; does not wait."""
        for begin, end in ranges:
            self._advise(*self._pages(begin, end), _WILLNEED)

    def map(self, ranges: Ranges) -> None:
        """Map these ranges into this process's memory for writing; returns when this is done.

        One call for a window costs less than the page faults that it saves, one for each block when it is read and
        another when it is written. Linux has the call since 5.14; otherwise page faults map the blocks.
        """
        for begin, end in ranges:
            self._advise(*self._pages(begin, end), _POPULATE_WRITE)

    def release(self, ranges: Ranges, *, write_back: bool = False) -> None:
        """Release these ranges from this process's memory; their pages stay in the system's cache until written.

        Args:
            ranges: the ranges to release, with the rest of their pages, which is mapped again on access.
            write_back: also start to write them to the disk, without waiting.
        """
        for begin, end in ranges:
            low, high = self._pages(begin, end)
            self._advise(low, high, _DONTNEED)
            if write_back:
                self._write_back(low, high)

    def _pages(self, begin: int, end: int) -> tuple[int, int]:
        """Return the range of whole pages that contains a range."""
        return begin // PAGE * PAGE, min(round_up(end, PAGE), self._length)

    def _advise(self, begin: int, end: int, advice: int) -> None:
        """Give the system advice; errors are ignored, since advice concerns speed only."""
        if self._libc is not None and begin < end:
            address = ctypes.c_void_p(self._mapping.ctypes.data + begin)
            self._libc.madvise(address, ctypes.c_size_t(end - begin), ctypes.c_int(advice))

    def _write_back(self, begin: int, end: int) -> None:
        if self._libc is not None:
            offset, length = ctypes.c_int64(begin), ctypes.c_int64(end - begin)
            self._libc.sync_file_range(self._fileno, offset, length, ctypes.c_uint(_SYNC_FILE_RANGE_WRITE))


def available_memory(proc: Path = Path("/proc")) -> int | None:
    """Return the bytes that programs can allocate without swapping; None if unknown (not Linux).

    Args:
        proc: the folder of the kernel's process files.
    """
    try:
        lines = (proc / "meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def resident_bytes() -> int | None:
    """Return the bytes of memory that this process has mapped (RSS); None if unknown (not Linux)."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")

"""Which bytes of a mapped file are in this process's memory: what the operating system is told about them."""

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

# linux/mman.h and linux/fs.h. Python's `mmap.madvise` knows not all of them, and keeps other threads waiting meanwhile.
_DONTNEED, _WILLNEED, _HUGEPAGE, _POPULATE_WRITE = 4, 3, 14, 23
_SYNC_FILE_RANGE_WRITE = 2

Ranges = Iterable[tuple[int, int]]
"""Byte ranges [begin, end) of a file."""


@final
class Residency:
    """Makes ranges of a mapped file come and go. Contents never change: what left is read again when it is touched.

    Only Linux is told anything; elsewhere the calls do nothing, and the operating system pages as it sees fit.

    Args:
        mapping: the whole file, mapped shared and writable.
        fileno: the file's descriptor.
    """

    def __init__(self, mapping: npt.NDArray[np.uint8], fileno: int) -> None:
        self._mapping = mapping  # kept, so that the addresses stay mapped
        self._fileno = fileno
        self._length = round_up(mapping.nbytes, PAGE)
        self._libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
        # Where the file system can, read in blocks of 2 MiB, which are then mapped at once and not in 512 pages.
        # Older kernels refuse; nothing is lost but speed.
        self._advise(0, self._length, _HUGEPAGE)

    def read_ahead(self, ranges: Ranges) -> None:
        """Have these ranges read from the disk, where they are not in the system's cache; does not wait for it."""
        for begin, end in ranges:
            self._advise(*self._pages(begin, end), _WILLNEED)

    def map(self, ranges: Ranges) -> None:
        """Bring these ranges into this process's memory, to be written to; returns when they are there.

        One call for a window costs less than what it saves, a fault for each block when it is read and another when it
        is written. Linux has the call since 5.14; before, and elsewhere, the faults do it.
        """
        for begin, end in ranges:
            self._advise(*self._pages(begin, end), _POPULATE_WRITE)

    def release(self, ranges: Ranges, *, write_back: bool = False) -> None:
        """Take these ranges out of this process's memory; their pages stay in the system's cache, to be written.

        Args:
            ranges: what to release. What shares a page with it goes too, and comes back when it is touched.
            write_back: also start writing them to the disk now, without waiting for it.
        """
        for begin, end in ranges:
            low, high = self._pages(begin, end)
            self._advise(low, high, _DONTNEED)
            if write_back:
                self._write_back(low, high)

    def _pages(self, begin: int, end: int) -> tuple[int, int]:
        """The whole pages that a range lies in."""
        return begin // PAGE * PAGE, min(round_up(end, PAGE), self._length)

    def _advise(self, begin: int, end: int, advice: int) -> None:
        """Give the system advice. That it does not know some is no error: it concerns speed alone."""
        if self._libc is not None and begin < end:
            address = ctypes.c_void_p(self._mapping.ctypes.data + begin)
            self._libc.madvise(address, ctypes.c_size_t(end - begin), ctypes.c_int(advice))

    def _write_back(self, begin: int, end: int) -> None:
        if self._libc is not None:
            offset, length = ctypes.c_int64(begin), ctypes.c_int64(end - begin)
            self._libc.sync_file_range(self._fileno, offset, length, ctypes.c_uint(_SYNC_FILE_RANGE_WRITE))


def available_memory() -> int | None:
    """Bytes that programs can still have without swapping; None where the system does not tell (not Linux)."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def resident_bytes() -> int | None:
    """Bytes of memory that this process has mapped now (RSS); None where the system does not tell (not Linux)."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")

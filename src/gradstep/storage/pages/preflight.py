"""Room and speed of a folder, measured before state is put there."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import final

from gradstep.storage.pages.allocate import check_room
from gradstep.storage.pages.memory import available_memory
from gradstep.storage.sizes import show_bytes

PROBE = 64 << 20
_BLOCK = 4 << 20


@final
@dataclass(frozen=True)
class Preflight:
    """Room and speed of a folder, and what a step costs whose state lies there.

    Attributes:
        folder: where.
        needed: bytes of state.
        free: bytes of room.
        write_bandwidth: bytes per second, as far as forced to the disk.
        read_bandwidth: bytes per second from the disk; that of writing, where the cache cannot be circumvented.
        dirty_limit: bytes of changed state that the system keeps in memory before programs have to wait for the disk
            (Linux: vm.dirty_ratio); None where it does not tell.
    """

    folder: Path
    needed: int
    free: int
    write_bandwidth: float
    read_bandwidth: float
    dirty_limit: int | None

    @property
    def cached(self) -> bool:
        """Whether the system can keep the state in memory, so that a step need not wait for the disk."""
        return self.dirty_limit is not None and self.needed <= self.dirty_limit

    @property
    def seconds_from_disk(self) -> float:
        """Reading and writing all of the state at the disk's bandwidth: what a step costs if it is not cached."""
        return self.needed / self.read_bandwidth + self.needed / self.write_bandwidth

    def __str__(self) -> str:
        disk = (
            f"{show_bytes(self.needed)} of state in {self.folder}, {show_bytes(self.free)} free; measured "
            f"{show_bytes(round(self.read_bandwidth))}/s reading, {show_bytes(round(self.write_bandwidth))}/s writing: "
            f"{self.seconds_from_disk:.2g} s per step from the disk"
        )
        return disk + (", less as long as the system keeps it in memory" if self.cached else "")


def preflight(folder: str | os.PathLike[str], nbytes: int, *, probe: int = PROBE) -> Preflight:
    """Check a folder's room for `nbytes` of state, then measure how fast it writes and reads.

    The measurement writes a file of random bytes, forces it to the disk, has the system forget it, reads it, and
    removes it. That is a sample of a moment, of sequential access; a disk with a cache of its own is flattered.

    Args:
        folder: where the state shall be.
        nbytes: how much.
        probe: bytes to measure with; less if the folder would have no room left for it.

    Raises:
        OSError: with ENOSPC if the room is too little, EACCES or EROFS if nothing can be written there.

    Example:
        >>> found = preflight(tempfile.mkdtemp(), 1_000_000, probe=1 << 20)
        >>> found.needed, found.seconds_from_disk > 0
        (1000000, True)
    """
    free = check_room(folder, nbytes)
    write, read = _bandwidths(Path(folder), max(1 << 16, min(probe, free // 4)))
    available, ratio = available_memory(), _dirty_ratio()
    limit = None if available is None or ratio is None else int(available * ratio)
    return Preflight(Path(folder), nbytes, free, write, read, limit)


def _bandwidths(folder: Path, probe: int) -> tuple[float, float]:
    """Bytes per second of writing and of reading."""
    block = os.urandom(min(probe, _BLOCK))  # of which a file system that compresses makes nothing smaller
    blocks = -(-probe // len(block))
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        begin = time.perf_counter()
        for _ in range(blocks):
            file.write(block)
        os.fsync(file.fileno())
        write = blocks * len(block) / (time.perf_counter() - begin)
        if not _forget(file.fileno()):
            return write, write
        file.seek(0)
        begin = time.perf_counter()
        while file.read(len(block)):
            pass
        return write, blocks * len(block) / (time.perf_counter() - begin)


def _forget(fileno: int) -> bool:
    """Have the system drop a file from its cache; whether it can be asked to."""
    with contextlib.suppress(AttributeError, OSError):
        os.posix_fadvise(fileno, 0, 0, os.POSIX_FADV_DONTNEED)
        return True
    return False


def _dirty_ratio() -> float | None:
    """The share of available memory that may be changed and not yet written (Linux's vm.dirty_ratio)."""
    try:
        return int(Path("/proc/sys/vm/dirty_ratio").read_text()) / 100 or None
    except OSError:
        return None

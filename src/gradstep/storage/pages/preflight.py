"""Measure the room and speed of a folder before state is written there."""

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
    """Room and speed of a folder, and the time of a step with its state there.

    Attributes:
        folder: the folder.
        needed: bytes of state.
        free: bytes of room.
        write_bandwidth: bytes per second, forced to the disk.
        read_bandwidth: bytes per second from the disk; that of writing where the system's cache cannot be emptied.
        dirty_limit: bytes of changed state that the system keeps in memory before programs have to wait for the disk
            (Linux: vm.dirty_ratio); None if unknown.
    """

    folder: Path
    needed: int
    free: int
    write_bandwidth: float
    read_bandwidth: float
    dirty_limit: int | None

    @property
    def cached(self) -> bool:
        """Whether the system can keep the state in memory, so that a step does not wait for the disk."""
        return self.dirty_limit is not None and self.needed <= self.dirty_limit

    @property
    def seconds_from_disk(self) -> float:
        """Seconds of a step that is not cached: to read and write all of the state at the disk's bandwidth."""
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

    The measurement writes a file of random bytes, forces it to the disk, drops it from the system's cache, reads it,
    and removes it. It is one sample of sequential access; a disk with its own cache looks faster than it is.

    Args:
        folder: the folder for the state.
        nbytes: bytes of state.
        probe: bytes to measure with; at most a quarter of the free room is used.

    Raises:
        OSError: with ENOSPC if the room is too little, EACCES or EROFS if the folder is not writable.

    Example:
        >>> result = preflight(tempfile.mkdtemp(), 1_000_000, probe=1 << 20)
        >>> result.needed, result.seconds_from_disk > 0
        (1000000, True)
    """
    free = check_room(folder, nbytes)
    write, read = _measure_bandwidths(Path(folder), max(1 << 16, min(probe, free // 4)))
    available, ratio = available_memory(), _dirty_ratio()
    limit = None if available is None or ratio is None else int(available * ratio)
    return Preflight(Path(folder), nbytes, free, write, read, limit)


def _measure_bandwidths(folder: Path, probe: int) -> tuple[float, float]:
    """Return the bytes per second of writing and of reading."""
    block = os.urandom(min(probe, _BLOCK))  # random, so that no file system can compress it
    blocks = -(-probe // len(block))
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        begin = time.perf_counter()
        for _ in range(blocks):
            file.write(block)
        os.fsync(file.fileno())
        write = blocks * len(block) / (time.perf_counter() - begin)
        if not _drop_from_cache(file.fileno()):
            return write, write
        file.seek(0)
        begin = time.perf_counter()
        while file.read(len(block)):
            pass
        return write, blocks * len(block) / (time.perf_counter() - begin)


def _drop_from_cache(fileno: int) -> bool:
    """Make the system drop a file from its cache; return whether it has a call for it."""
    with contextlib.suppress(AttributeError, OSError):
        os.posix_fadvise(fileno, 0, 0, os.POSIX_FADV_DONTNEED)
        return True
    return False


def _dirty_ratio() -> float | None:
    """Return the share of available memory that may be changed and not yet written (Linux's vm.dirty_ratio)."""
    try:
        return int(Path("/proc/sys/vm/dirty_ratio").read_text()) / 100 or None
    except OSError:
        return None

"""How much memory this process may still take: the machine's own, and what its control group allows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

UNLIMITED = 2**62
"""Control groups (version 1) write a number above this where there is no limit."""


def available_memory(proc: Path = Path("/proc"), groups: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes that can be taken now without swapping, at most what the control group leaves.

    Linux only: ``MemAvailable``, and the limit of every control group above this process (version 1 and 2) less what is
    used and cannot be reclaimed.

    Args:
        proc: where the kernel's process files are mounted.
        groups: where control groups are mounted.

    Raises:
        ValueError: this system does not tell.
    """
    try:
        lines = (proc / "meminfo").read_text(encoding="ascii").splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        raise ValueError("this system does not tell how much memory is free: give budget='24GB'") from None
    return max(0, min((free, *_room(proc, groups))))


def _room(proc: Path, groups: Path) -> Iterator[int]:
    """What each limited group leaves."""
    for base, limit, used in _folders(proc, groups):
        for folder in (base, *base.parents):
            if folder == groups.parent:
                break
            allowed, taken = _number(folder / limit), _number(folder / used)
            if allowed is not None and taken is not None and allowed < UNLIMITED:
                yield allowed - taken + _reclaimable(folder / "memory.stat")


def _folders(proc: Path, groups: Path) -> Iterator[tuple[Path, str, str]]:
    """The groups of this process, with the names of the files that hold the limit and the use."""
    try:
        lines = (proc / "self" / "cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        inside = path.lstrip("/")
        if not controllers:
            yield groups / inside, "memory.max", "memory.current"
            yield groups / "unified" / inside, "memory.max", "memory.current"
        elif "memory" in controllers.split(","):
            yield groups / "memory" / inside, "memory.limit_in_bytes", "memory.usage_in_bytes"


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text(encoding="ascii"))
    except (OSError, ValueError):  # there is no such file, or it says "max"
        return None


def _reclaimable(file: Path) -> int:
    """Cached files that have not been used lately: the kernel drops them when memory is wanted."""
    try:
        entries = dict(line.split(maxsplit=1) for line in file.read_text(encoding="ascii").splitlines())
    except (OSError, ValueError):
        return 0
    return int(entries.get("total_inactive_file", entries.get("inactive_file", 0)))

"""The memory that this process can still allocate: the machine's, limited by its control groups."""

from collections.abc import Iterator
from pathlib import Path

from gradstep.storage.pages.memory import available_memory

UNLIMITED = 2**62
"""Control groups (version 1) write a number above this where there is no limit."""


def usable_memory(proc: Path = Path("/proc"), groups: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the bytes that this process can allocate without swapping, within the limits of its control groups.

    Linux only: ``MemAvailable``, and the limit of every control group above this process (version 1 and 2) minus its
    memory in use that cannot be reclaimed.

    Args:
        proc: the folder of the kernel's process files.
        groups: the folder of the control groups.

    Raises:
        ValueError: the available memory of this system is unknown.
    """
    free = available_memory(proc)
    if free is None:
        raise ValueError("this system does not tell how much memory is free: give budget='24GB'")
    return max(0, min((free, *_group_rooms(proc, groups))))


def _group_rooms(proc: Path, groups: Path) -> Iterator[int]:
    """Yield the bytes that each limited group has left."""
    for base, limit_file, usage_file in _group_folders(proc, groups):
        for folder in (base, *base.parents):
            if folder == groups.parent:
                break
            limit, usage = _read_number(folder / limit_file), _read_number(folder / usage_file)
            if limit is not None and usage is not None and limit < UNLIMITED:
                yield limit - usage + _reclaimable_bytes(folder / "memory.stat")


def _group_folders(proc: Path, groups: Path) -> Iterator[tuple[Path, str, str]]:
    """Yield the groups of this process, with the names of the files of the limit and the usage."""
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


def _read_number(file: Path) -> int | None:
    try:
        return int(file.read_text(encoding="ascii"))
    except (OSError, ValueError):  # there is no such file, or its content is "max"
        return None


def _reclaimable_bytes(file: Path) -> int:
    """Return the bytes of cached files not used lately, which the kernel drops when memory is needed."""
    try:
        entries = dict(line.split(maxsplit=1) for line in file.read_text(encoding="ascii").splitlines())
    except (OSError, ValueError):
        return 0
    return int(entries.get("total_inactive_file", entries.get("inactive_file", 0)))

"""Describe the machine of a measurement, and measure the share of its processors that other programs take."""

import os
import platform
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import final

import torch

CPU_INFO = Path("/proc/cpuinfo")
PACKAGES = ("gradstep", "torch", "numpy", "llvmlite", "scikit-learn")


def describe_machine() -> dict[str, str]:
    """Return processor, cores, threads, memory, system and versions, as name → value; no user and no host name."""
    facts = {
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "torch threads": str(torch.get_num_threads()),
        "waiting threads": os.environ.get("OMP_WAIT_POLICY", "as OpenMP has it"),
        "memory": _memory(),
        "system": f"{platform.system()} {platform.machine()}",
        "Python": platform.python_version(),
    }
    facts.update((package, _version(package)) for package in PACKAGES)
    return facts


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed as a package"


def _processor() -> str:
    """Return the processor's name, family and model from Linux, elsewhere the name from Python.

    Virtual machines shorten names ("AMD EPYC"); family and model identify the processor (25 and 1: Zen 3).
    """
    if CPU_INFO.is_file():
        facts: dict[str, str] = {}
        for line in CPU_INFO.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            facts.setdefault(key.strip(), value.strip())
        if "model name" in facts:
            numbers = [f"{key.removeprefix('cpu ')} {facts[key]}" for key in ("cpu family", "model") if key in facts]
            return ", ".join([facts["model name"], *numbers])
    return platform.processor() or platform.machine()


def _memory() -> str:
    try:
        return f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GiB"
    except (ValueError, OSError, AttributeError):
        return "unknown"


STAT = Path("/proc/stat")
IDLE = (3, 4)
"""Columns of idle time and of waiting for disks in the line "cpu" of /proc/stat."""
GUEST = 8
"""First column of time that the columns before it include already."""


@final
class OtherPrograms:
    """The processor time of other programs since this object was made."""

    def __init__(self) -> None:
        self._begin = time.perf_counter()
        self._busy, self._own = _read_busy_seconds(), _read_own_seconds()

    def share(self) -> float | None:
        """Return their share in [0, 1] of all processors' time (a hypervisor included).

        None where the system (not Linux) does not tell. Finished children of this process count as its own time.
        """
        if self._busy is None:
            return None
        others = (_read_busy_seconds() or 0.0) - self._busy - (_read_own_seconds() - self._own)
        whole = (time.perf_counter() - self._begin) * (os.cpu_count() or 1)
        return round(min(1.0, max(0.0, others / whole)), 3)


def _read_busy_seconds() -> float | None:
    """Return the seconds that all processors together have worked; None if this is not Linux."""
    if not STAT.is_file():
        return None
    ticks = [int(word) for word in STAT.read_text(encoding="ascii").split("\n", 1)[0].split()[1:]][:GUEST]
    return sum(n for place, n in enumerate(ticks) if place not in IDLE) / os.sysconf("SC_CLK_TCK")


def _read_own_seconds() -> float:
    """Return the seconds that this process and its finished children have worked."""
    own = os.times()
    return own.user + own.system + own.children_user + own.children_system

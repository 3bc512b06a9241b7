"""The machine a race runs on, in words a reader of a report needs."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

CPU_INFO = Path("/proc/cpuinfo")
PACKAGES = ("gradstep", "torch", "numpy", "llvmlite", "scikit-learn")


def describe() -> dict[str, str]:
    """Processor, cores, threads, memory, system, versions, as name → value. Names no user and no host."""
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
    """The processor's own name, family and model where Linux tells them, else what Python knows.

    Virtual machines shorten names ("AMD EPYC"); family and model say which it is (25 and 1: Zen 3).
    """
    if CPU_INFO.is_file():
        facts: dict[str, str] = {}
        for line in CPU_INFO.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            facts.setdefault(key.strip(), value.strip())
        if "model name" in facts:
            known = [f"{key.removeprefix('cpu ')} {facts[key]}" for key in ("cpu family", "model") if key in facts]
            return ", ".join([facts["model name"], *known])
    return platform.processor() or platform.machine()


def _memory() -> str:
    try:
        return f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GiB"
    except (ValueError, OSError, AttributeError):
        return "unknown"

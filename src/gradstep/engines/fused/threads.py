"""Running one task on several threads.

Where torch has loaded an OpenMP runtime, its own team of threads does the work: they are awake from the backward
pass, and a second team would compete with them for the cores (measured: 10 to 15% of a step). Elsewhere, and in a
forked child (where entering OpenMP again can hang), Python threads do.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

Task = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
"""A compiled kernel; ctypes lets go of Python's lock while it runs."""

_forked = False
_pools: dict[int, ThreadPoolExecutor] = {}


def _after_fork() -> None:
    global _forked
    _forked = True
    _pools.clear()  # the parent's threads do not exist here


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_after_fork)


@cache
def _openmp() -> Callable[..., Any] | None:
    """``GOMP_parallel`` of the OpenMP runtime that torch has loaded (libgomp; Intel's and LLVM's offer it too)."""
    if "torch" not in sys.modules or sys.platform == "win32":
        return None
    try:
        parallel: Any = ctypes.CDLL(None).GOMP_parallel
    except AttributeError:
        return None
    parallel.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
    parallel.restype = None
    return parallel  # type: ignore[no-any-return]


def available() -> int:
    """The processors that this process may use, by its affinity and its control group's limit."""
    if sys.platform == "linux":
        count = len(os.sched_getaffinity(0))
        try:
            quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        except (OSError, ValueError):
            return count
        return count if quota == "max" else max(1, min(count, -(-int(quota) // int(period))))
    return os.cpu_count() or 1


def run(address: int, job: int, threads: int) -> None:
    """Run the task at ``address`` on ``threads`` threads, each with the same ``job``, until all are done."""
    if threads <= 1:
        Task(address)(job)
        return
    parallel = None if _forked else _openmp()
    if parallel is not None:
        parallel(address, job, threads, 0)
        return
    pool = _pools.get(threads)
    if pool is None:
        pool = _pools.setdefault(threads, ThreadPoolExecutor(threads - 1, "gradstep"))
    helpers = [pool.submit(Task(address), job) for _ in range(threads - 1)]
    Task(address)(job)
    for helper in helpers:
        if not helper.cancel():  # one that has not begun by now has nothing left to do
            helper.result()

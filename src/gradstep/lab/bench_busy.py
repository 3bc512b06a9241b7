"""How much of the processors other programs took during a measurement: what tells a good run from a bad one."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import final

STAT = Path("/proc/stat")
IDLE = (3, 4)
"""Places of idle time and of waiting for disks among the numbers of a processor."""
GUEST = 8
"""From here on the numbers are contained in those before."""


@final
class Neighbours:
    """Made before the measurement, asked after it."""

    def __init__(self) -> None:
        self._begin = time.perf_counter()
        self._busy, self._own = _busy(), _own()

    def share(self) -> float | None:
        """The share in [0, 1] of all processors' time since, taken by others (a hypervisor included).

        None where the system (not Linux) does not tell. Finished children of this process count as its own.
        """
        if self._busy is None:
            return None
        others = (_busy() or 0.0) - self._busy - (_own() - self._own)
        whole = (time.perf_counter() - self._begin) * (os.cpu_count() or 1)
        return round(min(1.0, max(0.0, others / whole)), 3)


def _busy() -> float | None:
    """Seconds that all processors together have worked."""
    if not STAT.is_file():
        return None
    ticks = [int(word) for word in STAT.read_text(encoding="ascii").split("\n", 1)[0].split()[1:]][:GUEST]
    return sum(n for place, n in enumerate(ticks) if place not in IDLE) / os.sysconf("SC_CLK_TCK")


def _own() -> float:
    """Seconds that this process and its finished children have worked."""
    own = os.times()
    return own.user + own.system + own.children_user + own.children_system

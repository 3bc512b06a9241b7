"""Run a command on Linux, and end everything that it started, also in sessions of its own, before it ends itself.

A script without imports from gradstep, so that it starts at once. What a process leaves behind becomes a child of the
nearest "child subreaper" above it, which this is: so all that the command started can be found here and ended.
"""

import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

_SUBREAPER = 36
"""PR_SET_CHILD_SUBREAPER of prctl(2)."""


class _EndError(Exception):
    """Asked to end."""


def main(command: list[str]) -> int:
    """Run the command; its exit status, or 128 and the number of the signal that ended it."""
    ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)

    def end(number: int, frame: object) -> None:
        raise _EndError

    worker = subprocess.Popen(command)
    status = 128 + signal.SIGTERM
    try:
        signal.signal(signal.SIGTERM, end)
        status = worker.wait()
    except _EndError:
        pass
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        _end_all()
    return status if status >= 0 else 128 - status


def _end_all() -> None:
    """Every child killed, and what these leave behind, until there is none."""
    end = time.monotonic() + 10
    while (children := _children()) and time.monotonic() < end:
        for child in children:
            try:
                os.kill(child, signal.SIGKILL)
            except ProcessLookupError:
                continue
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.005)


def _children() -> list[int]:
    own = os.getpid()
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                _, parent = (process / "stat").read_bytes().rpartition(b")")[2].split()[:2]
            except OSError:
                continue
            if int(parent) == own:
                found.append(int(process.name))
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

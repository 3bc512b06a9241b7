"""Run a command on Linux, and end everything that it started, also in other sessions, before this script ends.

The script imports nothing from gradstep, so that it starts at once. It is a "child subreaper": orphans of the command
become its children, so that it finds and ends them all.
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
    """The script received SIGTERM."""


def main(command: list[str]) -> int:
    """Run the command; return its exit status, or 128 plus the number of the signal that ended it."""
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
    """Kill every child, then the orphans that become children, until none is left, for 10 s at most."""
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
    children = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                _, parent = (process / "stat").read_bytes().rpartition(b")")[2].split()[:2]
            except OSError:
                continue
            if int(parent) == own:
                children.append(int(process.name))
    return children


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

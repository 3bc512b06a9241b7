"""One optimizer at a time: an advisory lock on a file."""

from __future__ import annotations

import contextlib
import os
import sys
import weakref
from pathlib import Path
from typing import final

if sys.platform != "win32":
    import fcntl

_HELD: weakref.WeakSet[FileLock] = weakref.WeakSet()


@final
class FileLock:
    """Holds a file for one owner, in this process or any other, until it is released or the process ends.

    The lock is `flock`'s. It has a file descriptor of its own, which forked children close: a DataLoader's worker that
    outlives its parent does not keep the file locked. Windows has no `flock`; nothing is locked there.

    Raises:
        BlockingIOError: when another owner holds the file.
    """

    def __init__(self, path: Path) -> None:
        self._fileno = os.open(path, os.O_RDONLY)
        self._close = weakref.finalize(self, os.close, self._fileno)
        if sys.platform != "win32":
            try:
                fcntl.flock(self._fileno, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                self._close()
                raise BlockingIOError(
                    error.errno,
                    "in use by another optimizer; one at a time: close it, or give another folder",
                    str(path),
                ) from None
        _HELD.add(self)

    def release(self) -> None:
        """Let others have the file."""
        if sys.platform != "win32" and self._close.alive:
            fcntl.flock(self._fileno, fcntl.LOCK_UN)
        self._close()

    def forget(self) -> None:
        """Drop the lock in a forked child; the parent process still holds it."""
        self._close()


def _forget() -> None:
    """In a forked child: the parent's locks are the parent's."""
    for lock in list(_HELD):
        with contextlib.suppress(OSError):
            lock.forget()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_forget)

"""An advisory lock on a file, so that only one optimizer uses it at a time."""

from __future__ import annotations

import contextlib
import os
import sys
import weakref
from pathlib import Path
from typing import final

if sys.platform != "win32":
    import fcntl

_LOCKS: weakref.WeakSet[FileLock] = weakref.WeakSet()


@final
class FileLock:
    """Locks a file for one owner in any process, until it is released or the process ends.

    The lock is `flock`'s. It has its own file descriptor, which forked children close: a DataLoader's worker that
    outlives its parent does not keep the file locked. Windows has no `flock`; nothing is locked there.

    Raises:
        BlockingIOError: another owner has locked the file.
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
        _LOCKS.add(self)

    def release(self) -> None:
        """Unlock the file."""
        if sys.platform != "win32" and self._close.alive:
            fcntl.flock(self._fileno, fcntl.LOCK_UN)
        self._close()

    def drop(self) -> None:
        """Drop the lock in a forked child; the parent process still holds it."""
        self._close()


def _drop_locks() -> None:
    """Drop all locks in a forked child, since they belong to the parent."""
    for lock in list(_LOCKS):
        with contextlib.suppress(OSError):
            lock.drop()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_drop_locks)

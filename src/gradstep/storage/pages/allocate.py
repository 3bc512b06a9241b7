"""Reserve the room of a file on the disk before it is written."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

from gradstep.storage.pages.layout import HUGE
from gradstep.storage.sizes import show_bytes


def allocate(fileno: int, size: int, path: Path) -> None:
    """Fill an empty file with `size` bytes of zeros that are allocated on the disk.

    A file with holes would be made at once, but a write to its mapped memory on a full disk ends the process (SIGBUS).
    The room is reserved first, so that a full disk is an error here; then zeros are written in blocks of 2 MiB, which
    some file systems (ext4 from Linux 6.16, XFS) keep in memory as such blocks: each is then mapped at once and not in
    512 pages, and walking through the file takes a third of the time.

    Raises:
        OSError: with ENOSPC; the message has the bytes needed and free.
    """
    check_room(path.parent, size)
    try:
        _reserve(fileno, size)
        zeros = memoryview(bytes(min(size, HUGE)))
        for begin in range(0, size, HUGE):
            unwritten = zeros[: size - begin]
            while unwritten:
                unwritten = unwritten[os.write(fileno, unwritten) :]
    except OSError as error:
        if error.errno == errno.ENOSPC:  # a quota, or another program has used the room since the check
            raise OSError(errno.ENOSPC, f"no room for the {show_bytes(size)} of paged state", str(path)) from error
        raise
    os.lseek(fileno, 0, os.SEEK_SET)


def check_room(folder: str | os.PathLike[str], nbytes: int) -> int:
    """Return the bytes free in a folder for users other than root.

    Raises:
        OSError: with ENOSPC if they are fewer than `nbytes`; the message has both numbers.
        FileNotFoundError, NotADirectoryError: there is no such folder.
    """
    if not Path(folder).is_dir():
        missing = not Path(folder).exists()
        code = errno.ENOENT if missing else errno.ENOTDIR
        raise OSError(code, "no such folder for paged state" if missing else "not a folder", str(folder))
    free = shutil.disk_usage(folder).free
    if free < nbytes:
        words = f"paged state needs {show_bytes(nbytes)} ({nbytes:,} bytes), {show_bytes(free)} ({free:,}) are free"
        raise OSError(errno.ENOSPC, words, str(folder))
    return free


def _reserve(fileno: int, size: int) -> None:
    """Reserve the room where the system has a call for it; elsewhere a full disk is an error of the later writes."""
    if os.name == "posix" and size:
        try:
            os.posix_fallocate(fileno, 0, size)
        except AttributeError:  # macOS
            return
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):  # the errors of a file system without the call
                raise

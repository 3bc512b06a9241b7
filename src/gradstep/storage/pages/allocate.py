"""Reserve the room of a file on the disk before it is written."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

from gradstep.storage.pages.layout import HUGE
from gradstep.storage.sizes import show_bytes


def allocate(fileno: int, size: int, path: Path) -> None:
    """Give an empty file `size` bytes of zeros that lie on the disk.

    A file with holes would be made in no time, and a full disk then be found by a write to mapped memory, which ends
    the process (SIGBUS). The room is reserved first, so that too little of it is found at once; then zeros are written
    in blocks of 2 MiB, which file systems that can (ext4 from Linux 6.16, XFS) keep in memory as such blocks: each
    is then mapped at once and not in 512 pages, and walking through the file takes a third of the time.

    Raises:
        OSError: with ENOSPC, saying what was needed and what is free.
    """
    check_room(path.parent, size)
    try:
        _reserve(fileno, size)
        zeros = memoryview(bytes(min(size, HUGE)))
        for begin in range(0, size, HUGE):
            left = zeros[: size - begin]
            while left:
                left = left[os.write(fileno, left) :]
    except OSError as error:
        if error.errno == errno.ENOSPC:  # a quota, or another program that was faster
            raise OSError(errno.ENOSPC, f"no room for the {show_bytes(size)} of paged state", str(path)) from error
        raise
    os.lseek(fileno, 0, os.SEEK_SET)


def check_room(folder: str | os.PathLike[str], nbytes: int) -> int:
    """Bytes free in a folder, for whoever is not root.

    Raises:
        OSError: with ENOSPC if they are fewer than `nbytes`; the message has both numbers.
        FileNotFoundError, NotADirectoryError: if there is no such folder.
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
    """Reserve the room where the system has a call for it; elsewhere writing finds out."""
    if os.name == "posix" and size:
        try:
            os.posix_fallocate(fileno, 0, size)
        except AttributeError:  # macOS
            return
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):  # what a file system says that has no such call
                raise

"""Write a file atomically: after a crash it is either the whole old file or the whole new one."""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import secrets
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from gradstep.storage.sizes import show_bytes

if sys.platform != "win32":
    import fcntl


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str], *, nbytes: int = 0) -> Iterator[BinaryIO]:
    """Write a file so that a crash at any moment leaves the old file or the new one, never a part.

    The bytes are written to a temporary file in the same folder and forced to the disk; then the file is renamed in one
    step, and the folder is forced to the disk. If the block raises, the temporary file is removed and the old file
    stays. A killed process leaves its temporary file; the next write to the same name removes it, unless another
    process still has it locked (Windows has no such locks, so nothing is removed there).

    The new file gets the permissions of the old one. A symbolic link is followed: the file it points to is replaced.

    Args:
        path: the file to write; its folder must exist.
        nbytes: its least size, if known: a disk without that much room is refused at once.

    Raises:
        FileNotFoundError: there is no such folder.
        FileExistsError: the path is a folder, a device or a pipe, which a file would replace.
        OSError: with ENOSPC, no space is left on the disk; with EFBIG, the file would be larger than a file may be;
            the old file stays.

    Yields:
        The open binary file to write to; it can be read and seeked too.

    Example:
        >>> from tempfile import mkdtemp
        >>> folder = Path(mkdtemp())
        >>> with atomic_write(folder / "note") as file:
        ...     _ = file.write(b"whole")
        >>> (folder / "note").read_bytes(), len(list(folder.iterdir()))
        (b'whole', 1)
    """
    target = Path(os.path.realpath(path))
    if not target.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {target.parent} to write {target.name} into: make it first")
    if target.exists() and not target.is_file():
        raise FileExistsError(f"{target} is no ordinary file, and would be replaced by one: give the path of a file")
    _remove_leftovers(target)
    free = shutil.disk_usage(target.parent).free
    if nbytes > free:
        raise _no_space_error(target, nbytes)
    temporary, file = _open_temporary(target)
    try:
        yield file
        file.flush()
        os.fsync(file.fileno())
        if sys.platform == "win32":  # Windows renames no open file; elsewhere the lock is held until after the renaming
            file.close()
        if target.exists():
            temporary.chmod(target.stat().st_mode & 0o7777)
        temporary.replace(target)
    except BaseException as error:
        with contextlib.suppress(OSError):  # closing flushes Python's buffer, which fails again on a full disk
            file.close()
        temporary.unlink(missing_ok=True)
        refusal = _find_refused_write(error) if isinstance(error, Exception) else None
        if refusal is None:
            raise
        if refusal.errno in _FULL:
            raise _no_space_error(target, nbytes) from error
        raise OSError(
            errno.EFBIG,
            f"{target.name} is larger than a file may be in {target.parent} (`ulimit -f` shows the limit of a process, "
            "a file system has its own): raise the limit, or write elsewhere; nothing was changed",
        ) from error
    file.close()
    sync_folder(target.parent)


def _open_temporary(target: Path) -> tuple[Path, BinaryIO]:
    """Open a new file beside the target, locked while it is open, so that no other writer removes it as a leftover."""
    while True:
        path = target.with_name(f"{_prefix(target)}{secrets.token_hex(4)}{_SUFFIX}")
        file = path.open("x+b")
        try:
            _lock(file)
        except BlockingIOError:  # another writer has just locked it to remove it as a leftover
            file.close()
            continue
        except OSError:
            pass  # a file system without locks: leftovers are not removed there
        if path.exists():
            return path, file
        file.close()


def _remove_leftovers(target: Path) -> None:
    """Remove temporary files of the same target that no process has locked."""
    if sys.platform == "win32":
        return
    for path in target.parent.glob(f"{glob.escape(_prefix(target))}{'[0-9a-f]' * 8}{_SUFFIX}"):
        with contextlib.suppress(OSError), path.open("r+b") as file:  # another process has locked or removed it
            _lock(file)
            path.unlink()


_SUFFIX = ".tmp"


def _prefix(target: Path) -> str:
    return f".{target.name[:100]}."


def _lock(file: BinaryIO) -> None:
    """Lock a file until it is closed.

    Raises:
        BlockingIOError: another process has locked it.
        OSError: the file system has no locks.
    """
    if sys.platform != "win32":
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)


_FULL = {errno.ENOSPC, errno.EDQUOT}


def _find_refused_write(error: BaseException) -> OSError | None:
    """Return the full disk or the limit of a file's size behind an error (torch raises its own in C++); else None."""
    chain: BaseException | None = error
    while chain is not None:
        if isinstance(chain, OSError) and chain.errno in _FULL | {errno.EFBIG}:
            return chain
        chain = chain.__cause__ or chain.__context__
    return None


def _no_space_error(target: Path, nbytes: int) -> OSError:
    free = shutil.disk_usage(target.parent).free
    needed = f"at least {show_bytes(nbytes)}, and {show_bytes(free)} are" if nbytes > free else "more than is"
    return OSError(
        errno.ENOSPC,
        f"no space left in {target.parent} for {target.name}, which takes {needed} free; nothing was changed",
    )


def sync_folder(folder: Path) -> None:
    """Force the names in a folder to the disk (Windows has no call for this and needs none)."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""A file that is either the old one or the new one, whole."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Write a file so that a crash at any moment leaves the old file or the new one, never a part.

    The bytes go to a temporary file in the same folder, are forced to the disk, and take the name in one step; then the
    folder is forced to the disk as well. If the block raises, the temporary file is removed and the old file stays.

    A file that is replaced passes its permissions on. A symbolic link is followed: the file it points to is replaced.

    Args:
        path: where the file shall stand; its folder must exist.

    Raises:
        FileNotFoundError: there is no such folder.

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
    temporary = target.with_name(f".{target.name[:100]}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("x+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if target.exists():
            temporary.chmod(target.stat().st_mode & 0o7777)
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(target.parent)


def sync_folder(folder: Path) -> None:
    """Force a folder's names to the disk, where the system can (Windows cannot, and needs no such thing)."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

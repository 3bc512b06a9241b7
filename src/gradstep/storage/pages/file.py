"""Many named arrays in one memory-mapped file: created whole, refused if it is not whole, used by one owner."""

from __future__ import annotations

import contextlib
import mmap
import os
import sys
import weakref
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, BinaryIO, final

import numpy as np
import numpy.typing as npt
from numpy.typing import DTypeLike

from gradstep.storage.atomic import sync_folder
from gradstep.storage.pages.allocate import allocate
from gradstep.storage.pages.header import (
    MARK,
    SECTOR,
    Contents,
    Mark,
    PageFileError,
    describe_file,
    encode_head,
    make_mark,
    read_head,
)
from gradstep.storage.pages.layout import PAGE, Layout
from gradstep.storage.pages.memory import Residency

if sys.platform != "win32":
    import fcntl

PageArray = npt.NDArray[Any]

Fill = Callable[[str, PageArray], None]
"""Writes the first values of an array: `fill(name, array)`."""


def make_file(path: Path, layout: Layout, fill: Fill | None, step: int) -> None:
    """Write a page file under a temporary name, its header last, and rename it. See `PageFile.create`."""
    new = path.with_name(path.name + ".new")
    new.touch()
    lock = FileLock(new)
    try:
        if path.exists():
            raise FileExistsError(f"{path} exists already: {describe_file(path)}; reopen it, or remove it first")
        with new.open("r+b") as file:
            file.truncate(0)  # a killed process may have left contents
            allocate(file.fileno(), layout.file_bytes, new)
            if fill is not None:
                _write_first_values(file, layout, fill)
            file.write(encode_head(layout))
            file.seek(MARK)
            file.write(make_mark("whole", step).encode())
        new.rename(path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
    finally:
        lock.release()
    sync_folder(path.parent)


def _write_first_values(file: BinaryIO, layout: Layout, fill: Fill) -> None:
    """Write the first values, with at most one array in memory."""
    contents = np.frombuffer(mmap.mmap(file.fileno(), layout.file_bytes), dtype=np.uint8)
    residency = Residency(contents, file.fileno())
    for entry in layout.entries:
        begin, end = layout.ranges[entry.name]
        fill(entry.name, contents[begin:end].view(entry.dtype))
        residency.release([(begin, end)])


ArraySpecs = Iterable[tuple[str, DTypeLike, int]]
"""(name, dtype, number of elements) of each array, in the order of a step."""


@final
class PageFile:
    """Arrays in a file that are used as if they were in memory; make one with `create` or `open`.

    Call `begin(step)` before a step that changes the arrays, and `commit(step)` after it. This guarantees:

    - After a process was killed during a step, `open` refuses the file; if it was killed between steps, `open` works.
    - After the whole machine went down, `open` accepts the file only if its contents are those of the last `flush`.
      (Otherwise only a part of the changes may be on the disk, and the file is refused.)

    Attributes:
        path: the path of the file.
        layout: the layout of its arrays.
        residency: maps ranges of the file into memory and releases them.

    Example:
        >>> from tempfile import mkdtemp
        >>> path = Path(mkdtemp()) / "state.pages"
        >>> arrays = [("weight.exp_avg", "float32", 6), ("weight.exp_avg_sq", "float32", 6)]
        >>> with PageFile.create(path, arrays) as file:
        ...     file.begin(step=1)
        ...     file.array("weight.exp_avg")[:] = 0.5
        ...     file.commit(step=1)
        >>> with PageFile.open(path, arrays) as file:
        ...     file.step, file.array("weight.exp_avg").tolist()
        (1, [0.5, 0.5, 0.5, 0.5, 0.5, 0.5])
    """

    def __init__(self, path: Path, layout: Layout, mark: Mark, lock: FileLock) -> None:
        """Map a file that has been checked; use `create` or `open` instead."""
        self.path = path
        self.layout = layout
        self._mark = mark
        self._lock = lock
        self._fileno = os.open(path, os.O_RDWR)
        self._close = weakref.finalize(self, os.close, self._fileno)
        self._mapping = mmap.mmap(self._fileno, layout.file_bytes)
        self._bytes = np.frombuffer(self._mapping, dtype=np.uint8)
        self.residency = Residency(self._bytes, self._fileno)

    @classmethod
    def create(
        cls, path: str | os.PathLike[str], arrays: ArraySpecs, *, fill: Fill | None = None, step: int = 0
    ) -> PageFile:
        """Make the file, with all its room allocated on the disk, and open it.

        It is made under the name `path` + ".new" and renamed when it is whole; on failure it is removed.

        Args:
            path: the path of the file; the folder must exist.
            arrays: the arrays of the file.
            fill: called as `fill(name, array)` for every array to write its first values; zeros without it.
            step: the number of steps already made.

        Raises:
            FileExistsError: the path exists already; the message says what it is.
            BlockingIOError: another process is making the file now.
            OSError: with ENOSPC if the disk has no room; raised here and never during training.
        """
        path, layout = Path(path), Layout.of(arrays)
        make_file(path, layout, fill, step)
        return cls._open_locked(path, layout)

    @classmethod
    def open(cls, path: str | os.PathLike[str], arrays: ArraySpecs) -> PageFile:
        """Open a file with exactly these arrays, whose last step was completed.

        Raises:
            FileNotFoundError: there is no such file.
            BlockingIOError: the file is open already, here or in another process.
            PageFileError: the file has other contents or is not whole; the message says what was expected and found.
        """
        return cls._open_locked(Path(path), Layout.of(arrays))

    @classmethod
    def _open_locked(cls, path: Path, layout: Layout) -> PageFile:
        lock = FileLock(path)
        try:
            file_layout, mark = read_head(path)
            difference = layout.difference(file_layout)
            if difference:
                raise PageFileError(f"{path} is refused: it holds other arrays\n  " + "\n  ".join(difference))
            if mark is None or not mark.trusted:
                raise PageFileError(f"{path} is refused: expected the end of a step, found {mark or 'a damaged mark'}")
            return cls(path, layout, mark, lock)
        except BaseException:
            lock.release()
            raise

    @property
    def step(self) -> int:
        """The number of the last step, or of the step that has begun."""
        return self._mark.step

    @property
    def stepping(self) -> bool:
        """Whether a step has begun and is not committed yet."""
        return self._mark.contents == "stepping"

    def array(self, name: str) -> PageArray:
        """Return an array as a one-dimensional view of the file; writing to it writes to the file."""
        begin, end = self.layout.ranges[name]
        return self._bytes[begin:end].view(self.layout.by_name[name].dtype)

    def begin(self, step: int, *, anew: bool = False) -> None:
        """Mark the contents as changing; `open` refuses the file until `commit`.

        Args:
            step: the number of the step.
            anew: every value will be overwritten, so that an interrupted earlier step does not matter.

        Raises:
            RuntimeError: an earlier step was interrupted: the contents are a mixture of before and after it.
        """
        if self.stepping and not anew:
            raise RuntimeError(f"{self.path} is in {self._mark}; load a checkpoint to go on from")
        was_durable = self._mark.contents == "durable"
        self._write_mark("stepping", step)
        if was_durable:  # the mark on the disk has to change before any of the new contents reach the disk
            self._mapping.flush(0, PAGE)

    def commit(self, step: int) -> None:
        """Mark the step as completed and the contents as whole; this does not access the disk.

        Raises:
            RuntimeError: no step, or another one, has begun.
        """
        if not self.stepping or self._mark.step != step:
            raise RuntimeError(f"step {step} was not begun: {self.path} is at {self._mark}")
        self._write_mark("whole", step)

    def flush(self) -> None:
        """Force the contents to the disk, and then a mark for it; the file then survives a loss of power.

        Raises:
            RuntimeError: during a step.
        """
        if self.stepping:
            raise RuntimeError(f"{self.path} is in {self._mark}; flush it after commit()")
        if self._mark.contents != "durable":
            self._force()
            self._write_mark("durable", self.step)
            self._force()

    def close(self, *, flush: bool = True) -> None:
        """Unlock the file, after a flush if it is whole. Its arrays stay valid, but must not be changed any more.

        Args:
            flush: whether to force it to the disk first; pass False for a file that will be removed.
        """
        if not self._close.alive:
            return
        try:
            if flush and not self.stepping:
                self.flush()
        finally:
            self._close()
            self._lock.release()

    def __enter__(self) -> PageFile:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _write_mark(self, contents: Contents, step: int) -> None:
        self._mark = make_mark(contents, step)
        self._mapping[MARK : MARK + SECTOR] = self._mark.encode()

    def _force(self) -> None:
        if sys.platform == "win32":
            self._mapping.flush()
        os.fsync(self._fileno)


# -- the lock ---------------------------------------------------------------------------------------------------------

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

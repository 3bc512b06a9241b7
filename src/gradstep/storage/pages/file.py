"""Many named arrays in one memory-mapped file: made whole or not at all, and refused when they are not whole."""

from __future__ import annotations

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
    describe,
    encode_head,
    mark_now,
    read_head,
)
from gradstep.storage.pages.layout import PAGE, Layout
from gradstep.storage.pages.lock import FileLock
from gradstep.storage.pages.memory import Residency

Array = npt.NDArray[Any]

Fill = Callable[[str, Array], None]
"""Writes the values that an array begins with: `fill(name, array)`."""


def make(path: Path, layout: Layout, fill: Fill | None, step: int) -> None:
    """Make a page file under another name, its header last, and give it its name. See `PageFile.create`."""
    new = path.with_name(path.name + ".new")
    new.touch()
    lock = FileLock(new)
    try:
        if path.exists():
            raise FileExistsError(f"{path} exists already: {describe(path)}; reopen it, or remove it first")
        with new.open("r+b") as file:
            file.truncate(0)  # what a killed process may have left
            allocate(file.fileno(), layout.file_bytes, new)
            if fill is not None:
                _fill(file, layout, fill)
            file.write(encode_head(layout))
            file.seek(MARK)
            file.write(mark_now("whole", step).encode())
        new.rename(path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
    finally:
        lock.release()
    sync_folder(path.parent)


def _fill(file: BinaryIO, layout: Layout, fill: Fill) -> None:
    """Write the first values, keeping no more than one array in memory."""
    contents = np.frombuffer(mmap.mmap(file.fileno(), layout.file_bytes), dtype=np.uint8)
    residency = Residency(contents, file.fileno())
    for entry in layout.entries:
        begin, end = layout.ranges[entry.name]
        fill(entry.name, contents[begin:end].view(entry.dtype))
        residency.release([(begin, end)])


Arrays = Iterable[tuple[str, DTypeLike, int]]
"""(name, dtype, number of elements) of each array, in the order in which a step walks through them."""


@final
class PageFile:
    """Arrays that live in a file and are used as if they were in memory; make one with `create` or `open`.

    A step that changes the arrays stands between `begin(step)` and `commit(step)`. What is certain then:

    - A process that is killed in mid-step leaves a file that `open` refuses; killed between steps, one that opens.
    - If the whole machine goes down, `open` takes the file only if it still is exactly what `flush` last forced to the
      disk. (Short of that, what the disk got depends on chance, and the file is refused.)

    Attributes:
        path: where the file stands.
        layout: what it holds.
        residency: makes ranges of it come and go in memory.

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
        """What `create` and `open` call once the file is known to be good."""
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
        cls, path: str | os.PathLike[str], arrays: Arrays, *, fill: Fill | None = None, step: int = 0
    ) -> PageFile:
        """Make the file, with every byte of it on the disk's account, and open it.

        It is made under the name `path` + ".new" and takes its own when it is whole; nothing of it is left on failure.

        Args:
            path: where it shall stand; the folder must exist.
            arrays: what it shall hold.
            fill: called as `fill(name, array)` for every array, to write the values it begins with; zeros otherwise.
            step: the number of steps that its contents have made.

        Raises:
            FileExistsError: if something stands there already; the message says what it is.
            BlockingIOError: if another process is making it at this moment.
            OSError: with ENOSPC if the disk has no room; found here, never in the midst of training.
        """
        path, layout = Path(path), Layout.of(arrays)
        make(path, layout, fill, step)
        return cls._open_locked(path, layout)

    @classmethod
    def open(cls, path: str | os.PathLike[str], arrays: Arrays) -> PageFile:
        """Open a file that holds exactly these arrays, at the end of a step.

        Raises:
            FileNotFoundError: if there is none.
            BlockingIOError: if it is open already, here or in another process.
            PageFileError: if it is not that file, or is not whole; the message says what was expected and found.
        """
        return cls._open_locked(Path(path), Layout.of(arrays))

    @classmethod
    def _open_locked(cls, path: Path, layout: Layout) -> PageFile:
        lock = FileLock(path)
        try:
            found, mark = read_head(path)
            difference = layout.difference(found)
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
        """The number of the step that was made last, or is being made."""
        return self._mark.step

    @property
    def stepping(self) -> bool:
        """Whether a step has begun and not been committed."""
        return self._mark.contents == "stepping"

    def array(self, name: str) -> Array:
        """The array: a one-dimensional view of the file; writing to it writes the file."""
        begin, end = self.layout.ranges[name]
        return self._bytes[begin:end].view(self.layout.by_name[name].dtype)

    def begin(self, step: int, *, anew: bool = False) -> None:
        """Say that the contents are about to change; until `commit`, the file does not open.

        Args:
            step: the number of the step.
            anew: every value will be written, so an earlier step that was broken off does not matter.

        Raises:
            RuntimeError: if an earlier step was broken off: its contents are neither those before nor those after it.
        """
        if self.stepping and not anew:
            raise RuntimeError(f"{self.path} is in {self._mark}; load a checkpoint to go on from")
        was_durable = self._mark.contents == "durable"
        self._put("stepping", step)
        if was_durable:  # the disk says "whole", and must stop saying so before it gets any of the new contents
            self._mapping.flush(0, PAGE)

    def commit(self, step: int) -> None:
        """Say that the step is made and the contents are whole again; costs no disk access.

        Raises:
            RuntimeError: if no step, or another one, has begun.
        """
        if not self.stepping or self._mark.step != step:
            raise RuntimeError(f"step {step} was not begun: {self.path} is at {self._mark}")
        self._put("whole", step)

    def flush(self) -> None:
        """Force the contents to the disk, and then the mark that says so; the file now outlives a loss of power.

        Raises:
            RuntimeError: in mid-step.
        """
        if self.stepping:
            raise RuntimeError(f"{self.path} is in {self._mark}; flush it after commit()")
        if self._mark.contents != "durable":
            self._force()
            self._put("durable", self.step)
            self._force()

    def close(self, *, flush: bool = True) -> None:
        """Unlock the file, after a flush if it is whole. Arrays taken from it stay valid, and must not be changed.

        Args:
            flush: whether to force it to the disk first; not worth the time for a file that is to be removed.
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

    def _put(self, contents: Contents, step: int) -> None:
        self._mark = mark_now(contents, step)
        self._mapping[MARK : MARK + SECTOR] = self._mark.encode()

    def _force(self) -> None:
        if sys.platform == "win32":
            self._mapping.flush()
        os.fsync(self._fileno)

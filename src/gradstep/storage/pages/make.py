"""How a page file comes into being: whole, or not at all."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from gradstep.storage.atomic import sync_folder
from gradstep.storage.pages.allocate import allocate
from gradstep.storage.pages.header import MARK, describe, encode_head, mark_now
from gradstep.storage.pages.layout import Layout
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

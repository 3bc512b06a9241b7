"""The header, the first page of a page file: it identifies the file, and its mark says whether the contents are whole.

It begins with lines of text, which `head -3 FILE` shows: the magic line; a JSON object (version, byte order, length,
and the layout's checksum); the SHA-256 of both. The page's last sector holds only the mark: a JSON object and its CRC.
A mark is shorter than a sector, so that a disk writes it completely or not at all.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import zlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, final

from gradstep.storage.pages.layout import PAGE, Layout
from gradstep.storage.sizes import show_bytes


@final
class PageFileError(ValueError):
    """Raised for a file that is not the expected page file: foreign, short, of another layout, or left during a step.

    The message says what was expected and what was found.
    """


MAGIC = b"gradstep page file\n"
VERSION = 1
SECTOR = 512
MARK = PAGE - SECTOR
"""Offset of the mark in bytes."""

Contents = Literal["stepping", "whole", "durable"]


@final
@dataclass(frozen=True)
class Mark:
    """The present status of the contents.

    Attributes:
        contents: "stepping": a step is changing them; "whole": those of a completed step, in this system's memory;
            "durable": those of a completed step, forced to the disk.
        step: the number of the step that has begun, or of the last one.
        boot: the run of the operating system that wrote the mark; empty if unknown.
        pid: the process that wrote the mark.
    """

    contents: Contents
    step: int
    boot: str
    pid: int

    def encode(self) -> bytes:
        """Return the sector of the mark."""
        text = json.dumps(vars(self)).encode("ascii")
        return (text + b" %08x\n" % zlib.crc32(text)).ljust(SECTOR, b"\0")

    @classmethod
    def decode(cls, sector: bytes) -> Mark | None:
        """Return the mark in a sector; None if it is damaged."""
        text, _, crc = sector.rstrip(b"\0\n").rpartition(b" ")
        return cls(**json.loads(text)) if text and crc == b"%08x" % zlib.crc32(text) else None

    @property
    def trusted(self) -> bool:
        """Whether the contents are those of a completed step.

        A "whole" file may be in memory only: it survives the process, but not a restart of the operating system.
        """
        return self.contents == "durable" or (self.contents == "whole" and self.boot != "" and self.boot == boot())

    def __str__(self) -> str:
        if self.contents == "stepping":
            return f"the midst of step {self.step} (of process {self.pid})"
        if not self.trusted:
            return f"step {self.step}, not forced to the disk before the machine restarted"
        return f"the end of step {self.step}"


def make_mark(contents: Contents, step: int) -> Mark:
    """Return a mark written now by this process."""
    return Mark(contents, step, boot(), os.getpid())


@cache
def boot() -> str:
    """Return an identifier of this run of the operating system; empty where the system has none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def encode_head(layout: Layout) -> bytes:
    """Return the first page without its mark, followed by the layout's table."""
    head = {
        "version": VERSION,
        "byte_order": sys.byteorder,
        "file_bytes": layout.file_bytes,
        "table_bytes": len(layout.table),
        "layout_sha256": layout.checksum,
    }
    lines = MAGIC + json.dumps(head).encode("ascii") + b"\n"
    lines += hashlib.sha256(lines).hexdigest().encode("ascii") + b"\n"
    return lines.ljust(PAGE, b"\0") + layout.table


def read_head(path: Path) -> tuple[Layout, Mark | None]:
    """Return the layout and the mark of a page file; the mark is None if it is damaged.

    Raises:
        PageFileError: not a page file of this version and byte order, or not of the recorded length.
    """
    with path.open("rb") as file:
        page = file.read(PAGE)
        length = path.stat().st_size
        head = _check_head(path, page, length)
        table = file.read(head["table_bytes"])
    sha = hashlib.sha256(table).hexdigest()
    if sha != head["layout_sha256"]:
        raise _refusal(path, f"its table of arrays is damaged: expected SHA-256 {head['layout_sha256']}, found {sha}")
    return Layout.from_table(table), Mark.decode(page[MARK:])


def describe_file(path: Path) -> str:
    """Say what kind of file stands at a path, for a message."""
    try:
        layout, mark = read_head(path)
    except PageFileError:
        return f"{show_bytes(path.stat().st_size)} that are no page file of this version, or a damaged one"
    except OSError as error:
        return f"something that cannot be read ({error.strerror})"
    size = show_bytes(layout.file_bytes)
    return f"a page file of {len(layout.entries):,} arrays, {size}, at {mark or 'a damaged mark'}"


def _check_head(path: Path, page: bytes, length: int) -> dict[str, Any]:
    """Read the numbers of the head and refuse a page that is not whole."""
    if not page.startswith(MAGIC):
        expected = MAGIC.decode().strip()
        raise _refusal(path, f"it is no page file: expected {expected!r} at its start, found {page[: len(MAGIC)]!r}")
    if len(page) < PAGE:
        raise _refusal(path, f"it is cut off: expected at least {PAGE} bytes, found {length}")
    lines = page[:MARK].split(b"\n", 3)
    sha = hashlib.sha256(b"\n".join(lines[:2]) + b"\n").hexdigest()
    if len(lines) < 4 or lines[2] != sha.encode("ascii"):
        raise _refusal(path, f"its header is damaged: expected SHA-256 {lines[2][:64]!r}, found {sha}")
    head: dict[str, Any] = json.loads(lines[1])
    for name, expected_value in (("version", VERSION), ("byte_order", sys.byteorder), ("file_bytes", length)):
        if head[name] != expected_value:
            break
    else:
        return head
    if name == "file_bytes":
        words = f"expected {head[name]:,} bytes ({show_bytes(head[name])}), found {length:,}"
    else:
        words = f"expected {name.replace('_', ' ')} {expected_value}, found {head[name]}"
    raise _refusal(path, words)


def _refusal(path: Path, why: str) -> PageFileError:
    return PageFileError(f"{path} is refused: {why}")

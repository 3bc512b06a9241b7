"""Sinks that write files: the record as JSON lines, and the report as an HTML page."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO, final

from gradstep.monitor.lines import FILE, Reader, encode
from gradstep.monitor.record import Header, Run, Update
from gradstep.monitor.sinks.base import Sink


@final
class JsonLines(Sink):
    """Writes one line of JSON for each update, about once a second all updates of that second.

    No line is lost after an exception or Ctrl-C. A killed process loses at most the lines of the last second, which it
    had not yet passed to the operating system.

    A resumed run (:meth:`gradstep.Monitor.load_state_dict`) continues its file; a new run does not overwrite a file.

    Args:
        path: the file; for a path without suffix, ``monitor.jsonl`` in that folder. Folders are made.
        overwrite: replace an existing record.

    Raises:
        FileExistsError: there is a record already; raised before the run's first step.
    """

    def __init__(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        self.path = Path(path) if Path(path).suffix else Path(path) / FILE
        self._overwrite = overwrite
        self._file: BinaryIO | None = None

    def open(self, header: Header) -> None:
        if self._file is None:
            self._file = self._open_file(resumed=header.first_update > 0)
        self._line(header)

    def _open_file(self, *, resumed: bool) -> BinaryIO:
        if self.path.exists() and self.path.stat().st_size:
            if resumed:
                Reader(self.path).read()  # raises if the file is not a record
                return _cut_to_whole_lines(self.path.open("r+b", buffering=0))
            if not self._overwrite:
                raise FileExistsError(
                    f"{self.path} holds a record already: give another path, or JsonLines(path, overwrite=True); to "
                    "go on with it, load the monitor's state_dict() before the first step"
                )
        self.path.parent.mkdir(parents=True, exist_ok=True)
        return self.path.open("wb", buffering=0)

    def write(self, update: Update) -> None:
        self._line(update)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _line(self, entry: Header | Update) -> None:
        assert self._file is not None
        self._file.write((encode(entry) + "\n").encode())


def _cut_to_whole_lines(file: BinaryIO) -> BinaryIO:
    """Remove a last line that a crash cut off, and return the file positioned at its end."""
    file.seek(file.read().rfind(b"\n") + 1)
    file.truncate()
    return file


@final
class Html(Sink):
    """Writes the report of the run as one HTML page when the monitor is closed; the page needs no network.

    The page covers the updates of this process; ``gradstep monitor RUN --html`` makes the page of a whole record, also
    while it grows.

    Args:
        path: the page; folders are made.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._headers: list[Header] = []
        self._updates: list[Update] = []

    def open(self, header: Header) -> None:
        self._headers.append(header)

    def write(self, update: Update) -> None:
        if self._updates and self._updates[-1].parameters is not None and update.parameters is not None:
            self._updates[-1] = replace(self._updates[-1], parameters=None)  # the page shows only the last update's
        if update.groups:
            self._updates.append(update)

    def close(self) -> None:
        from gradstep.monitor.report import write_report

        if self._headers:
            write_report(Run(tuple(self._headers), tuple(self._updates)), self.path)

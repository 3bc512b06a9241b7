"""The report of a run, when it has ended."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import final

from gradstep.monitor.record import Header, Run, Update
from gradstep.monitor.sinks.base import Sink


@final
class Html(Sink):
    """One page with every chart in it, written when the monitor is closed; it needs no network to be looked at.

    It holds what this process has seen; ``gradstep monitor RUN --html`` makes the page of a whole record, also of one
    that still grows.

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
            self._updates[-1] = replace(self._updates[-1], parameters=None)  # only the last ones are shown
        if update.groups:
            self._updates.append(update)

    def close(self) -> None:
        from gradstep.monitor.report import write_report

        if self._headers:
            write_report(Run(tuple(self._headers), tuple(self._updates)), self.path)

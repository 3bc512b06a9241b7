"""A whole record."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from gradstep.monitor.record.header import Header
from gradstep.monitor.record.update import Update


@final
@dataclass(frozen=True)
class Run:
    """A whole record.

    Attributes:
        headers: of the start and of every resume; at least one.
        updates: in order, made and skipped ones, without those that a resume made void.
    """

    headers: tuple[Header, ...]
    updates: tuple[Update, ...]

    @property
    def header(self) -> Header:
        """The last header."""
        return self.headers[-1]

    @property
    def made(self) -> tuple[Update, ...]:
        """The updates that were not skipped."""
        return tuple(update for update in self.updates if not update.skipped)

"""A run as it goes, on the terminal it runs in."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, final

from gradstep.monitor.record import Header, Run, Update
from gradstep.monitor.sinks.base import Sink

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live

MOST = 2_000
"""Updates that are remembered for the picture; beyond that, every second one is forgotten."""


@final
class Terminal(Sink):
    """A table that is drawn anew while the run goes on, where there is a terminal; in a log or a pipe, once at the end.

    Args:
        seconds: between two drawings, > 0.
        console: of rich, where to draw; by default standard output.

    Raises:
        ImportError: rich is not installed.
        ValueError: ``seconds`` is not positive.
    """

    def __init__(self, seconds: float = 0.5, *, console: Console | None = None) -> None:
        try:
            from rich.console import Console
        except ImportError as error:
            raise ImportError(
                'the terminal view needs rich, which is not installed: pip install "gradstep[lab]"'
            ) from error
        if not seconds > 0:
            raise ValueError(f"Invalid seconds: {seconds} (must be greater than 0)")
        self._seconds = seconds
        self._console = console or Console()
        self._live: Live | None = None
        self._run: Run | None = None
        self._updates: list[Update] = []
        self._drawn = 0.0

    def open(self, header: Header) -> None:
        from rich.live import Live

        self._run = Run((header,), ())
        if self._live is None:
            self._live = Live(console=self._console, auto_refresh=False, transient=False)
            self._live.start()

    def write(self, update: Update) -> None:
        if update.groups:
            self._updates.append(replace(update, parameters=None))
        if len(self._updates) > MOST:
            del self._updates[1:-1:2]

    def flush(self) -> None:
        if self._live is not None and self._console.is_terminal and time.monotonic() - self._drawn > self._seconds:
            self._draw()

    def close(self) -> None:
        if self._live is not None:
            self._draw()
            self._live.stop()
            self._live = None

    def _draw(self) -> None:
        from gradstep.monitor.view import view

        assert self._live is not None
        assert self._run is not None
        self._live.update(view(replace(self._run, updates=tuple(self._updates)), self._console.width), refresh=True)
        self._drawn = time.monotonic()

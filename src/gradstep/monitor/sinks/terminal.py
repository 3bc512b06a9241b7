"""A sink that shows the run on the terminal while it goes on."""

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
"""Most updates in memory for the display; above this, every second update is removed."""


@final
class Terminal(Sink):
    """Shows a table that is redrawn during the run; without a terminal, in a log or a pipe, once at the end.

    Args:
        seconds: time between two drawings, > 0.
        console: the console of rich to draw on; by default standard output.

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
        self._last_drawing = 0.0

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
        is_due = time.monotonic() - self._last_drawing > self._seconds
        if self._live is not None and self._console.is_terminal and is_due:
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
        self._last_drawing = time.monotonic()

"""The terminal of the commands, and their exit code after Ctrl-C."""

import sys

from rich.console import Console

INTERRUPTED = 130
"""Exit code after Ctrl-C, as in shells."""

WIDE = 150
"""Columns of a log or a pipe, in which tables are not wrapped."""


def console() -> Console:
    """Return a console of the terminal's width, or a wide one without a terminal."""
    return Console() if sys.stdout.isatty() else Console(width=WIDE)

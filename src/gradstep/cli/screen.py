"""What the commands share: where they print, and how they end."""

import sys

from rich.console import Console

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""

WIDE = 150
"""Columns of a log or a pipe, where nothing is gained by wrapping a table."""


def console() -> Console:
    """The terminal as it is, or a wide page where there is none."""
    return Console() if sys.stdout.isatty() else Console(width=WIDE)

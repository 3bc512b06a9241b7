"""The terminal of the commands, and their exit code after Ctrl-C."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import typer
from rich.console import Console

EXIT_INTERRUPTED = 130
"""Exit code after Ctrl-C, as in shells."""

PLAIN_WIDTH = 150
"""Columns of a log or a pipe, in which tables are not wrapped."""


@contextmanager
def usage_errors(*kinds: type[Exception]) -> Iterator[None]:
    """Report exceptions of these kinds as errors in the command's arguments."""
    try:
        yield
    except kinds as error:
        raise typer.BadParameter(str(error)) from error


def console() -> Console:
    """Return a console of the terminal's width, or a wide one without a terminal."""
    return Console() if sys.stdout.isatty() else Console(width=PLAIN_WIDTH)


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Show on the terminal what is being done, until the block ends; nothing without a terminal.

    It is for work of some seconds that shows nothing itself, such as loading PyTorch. It writes to standard error.
    """
    with Console(stderr=True).status(what) if sys.stderr.isatty() else nullcontext():
        yield

"""Commands that load PyTorch or judge say so on a terminal, and write nothing extra without one."""

import io
import sys

import pytest

from gradstep.cli.screen import waiting


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(("kind", "shown"), [(Terminal, True), (io.StringIO, False)])
def test_what_is_done_is_shown_on_a_terminal_only(monkeypatch, kind, shown):
    monkeypatch.setenv("TERM", "xterm")
    written = kind()
    monkeypatch.setattr(sys, "stderr", written)
    with waiting("loading PyTorch"):
        pass
    assert ("loading PyTorch" in written.getvalue()) == shown

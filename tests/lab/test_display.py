"""What a person sees during a race."""

import io

import pytest
from rich.console import Console

from gradstep.lab.display import LiveDisplay, PlainDisplay, display_for
from gradstep.lab.session import plan, run


def shown(tmp_path, terminal: bool) -> str:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=terminal, width=120)
    display = display_for(console)
    assert isinstance(display, LiveDisplay if terminal else PlainDisplay)
    run(plan(["rosenbrock"], "adamw,sgd:lr=10", steps=40, seeds=2, out=tmp_path), display)
    return stream.getvalue()


@pytest.mark.parametrize("terminal", [True, False])
def test_every_contender_is_shown_and_what_happened_to_it(tmp_path, terminal):
    text = shown(tmp_path, terminal)
    for word in ("rosenbrock", "AdamW", "SGD lr=10", "diverged"):
        assert word in text


def test_a_log_is_short_and_without_control_signs(tmp_path):
    text = shown(tmp_path, terminal=False)
    assert "\x1b" not in text
    assert len(text.splitlines()) < 40

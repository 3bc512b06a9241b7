"""What a person sees during a race."""

import io

import pytest
from rich.console import Console

from gradstep.lab.session import plan, run
from gradstep.lab.terminal import LiveDisplay, PlainDisplay, display_for


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


def test_a_log_says_which_seed_a_line_is_of_and_what_its_number_is(tmp_path):
    lines = shown(tmp_path, terminal=False).splitlines()
    assert lines[0] == "rosenbrock: 2 optimizers, 40 steps, 2 seeds"
    assert {f"seed {seed}" for line in lines[1:] for seed in (0, 1) if f" seed {seed} " in line} == {"seed 0", "seed 1"}
    assert all("height" in line and "loss" not in line for line in lines[1:])

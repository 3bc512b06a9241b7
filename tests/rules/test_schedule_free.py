"""The schedule-free rules against the authors' package ``schedulefree`` over 50 steps; skipped where it is missing."""

from typing import Any

import pytest
import torch

import gradstep
from tests.training import give, gradients, leaves, starts

packages = pytest.importorskip("schedulefree")

SHAPES = [(33,), (3, 5), (70, 67)]
RIVALS: dict[str, tuple[str, dict[str, Any]]] = {
    "SGD": ("SGD", {"lr": 0.1, "weight_decay": 0.1, "warmup_steps": 10}),
    "AdamW": ("AdamW", {"lr": 0.01, "weight_decay": 0.1, "warmup_steps": 10}),
    "AdamW, powers": ("AdamW", {"lr": 0.01, "betas": (0.5, 0.75), "r": 1.0, "weight_lr_power": 1.0}),
    "RAdam": ("RAdam", {"lr": 0.01, "weight_decay": 0.1}),
    "RAdam, moving from the first step": ("RAdam", {"lr": 0.01, "silent_sgd_phase": False}),
}


@pytest.mark.parametrize(("name", "settings"), RIVALS.values(), ids=RIVALS)
def test_fifty_steps_in_both_modes(name, settings):
    start, steps = starts(SHAPES, torch.float64), gradients(50, SHAPES, torch.float64)
    ours, theirs = leaves(start), leaves(start)
    one = getattr(gradstep, f"ScheduleFree{name}")(ours, **settings)
    other = getattr(packages, f"{name}ScheduleFree")(theirs, **settings)
    other.train()
    for t, grads in enumerate(steps):
        give(ours, grads)
        give(theirs, [g.clone() for g in grads])  # the package writes into gradients
        one.step()
        other.step()
        if t % 10 == 9:
            for mode in ("eval", "train"):
                getattr(one, mode)()
                getattr(other, mode)()
                for p, q in zip(ours, theirs, strict=True):
                    torch.testing.assert_close(p, q, rtol=0, atol=1e-12)

"""Rules that torch does not have, against pytorch_optimizer 4.1 over 50 steps; skipped where it is not installed.

``pip install pytorch-optimizer`` brings it. Its settings are those that give the paper's algorithm.
"""

from typing import Any

import pytest
import torch

import gradstep
from tests.training import gradients, starts, trained

packages = pytest.importorskip("pytorch_optimizer")

SHAPES = [(33,), (3, 5), (70, 67)]
DECAY = {"lr": 0.01, "weight_decay": 0.1}

RIVALS: dict[str, tuple[str, dict[str, Any]]] = {
    "AdaBelief": ("AdaBelief", DECAY),
    "AdaBelief, eps": ("AdaBelief", {"betas": (0.5, 0.75), "eps": 1e-4}),
    # Its decay follows the step, and its ε is corrected with the root: neither is compared.
    "LaProp": ("LaProp", {"lr": 0.01}),
    "ADOPT": ("ADOPT", {"lr": 0.01}),
    "ADOPT, betas": ("ADOPT", {"lr": 0.01, "betas": (0.5, 0.75), "weight_decay": 0.1}),
    "LaProp, betas": ("LaProp", {"lr": 0.01, "betas": (0.9, 0.75)}),
}


OF_THE_PACKAGE: dict[str, dict[str, Any]] = {
    # The package clips at t^(1/4) with t = 2 at the first update, where the paper and the authors' code have t = 1.
    "ADOPT": {"clip_lambda": lambda step: (step - 1) ** 0.25},
}
"""Settings that only the package has, with which it computes the paper's algorithm."""


@pytest.mark.parametrize(("name", "settings"), RIVALS.values(), ids=RIVALS)
def test_fifty_steps(name, settings):
    start, steps = starts(SHAPES, torch.float64), gradients(50, SHAPES, torch.float64)
    _, params = trained(getattr(gradstep, name), start, steps, **settings)
    _, targets = trained(getattr(packages, name), start, steps, **settings, **OF_THE_PACKAGE.get(name, {}))
    for p, q in zip(params, targets, strict=True):
        # The package's LaProp rounds a factor to float32, and adds 1e-15 to each squared root.
        torch.testing.assert_close(p, q, rtol=0, atol=1e-6 if name == "LaProp" else 1e-12)

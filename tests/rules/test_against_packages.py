"""Rules that torch does not have, against pytorch_optimizer 4.1 over 50 steps; skipped where it is not installed.

``pip install pytorch-optimizer`` brings it. Its settings are those that give the paper's algorithm.
"""

from typing import Any

import pytest
import torch

import gradstep
from gradstep import modify, rules
from tests.training import give, gradients, leaves, starts, trained, walk

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
    "AdEMAMix": ("AdEMAMix", DECAY),
    "AdEMAMix, schedules": (
        "AdEMAMix",
        {"betas": (0.5, 0.75, 0.99), "t_alpha": 30, "t_beta3": 30, "weight_decay": 0.1},
    ),
    "LaProp, betas": ("LaProp", {"lr": 0.01, "betas": (0.9, 0.75)}),
}


OF_THE_PACKAGE: dict[str, dict[str, Any]] = {
    # The package clips at t^(1/4) with t = 2 at the first update, where the paper and the authors' code have t = 1.
    "ADOPT": {"clip_lambda": lambda step: (step - 1) ** 0.25},
    "AdEMAMix": {"weight_decouple": True},
}
"""Settings that only the package has, with which it computes the paper's algorithm."""


@pytest.mark.parametrize(("name", "settings"), RIVALS.values(), ids=RIVALS)
def test_fifty_steps(name, settings):
    start, steps = starts(SHAPES, torch.float64), gradients(50, SHAPES, torch.float64)
    _, params = trained(getattr(gradstep, name), start, steps, **settings)
    theirs = {"t_alpha_beta3" if key == "t_alpha" else key: v for key, v in settings.items() if key != "t_beta3"}
    _, targets = trained(getattr(packages, name), start, steps, **theirs, **OF_THE_PACKAGE.get(name, {}))
    for p, q in zip(params, targets, strict=True):
        # The package's LaProp rounds a factor to float32, and adds 1e-15 to each squared root.
        torch.testing.assert_close(p, q, rtol=0, atol=1e-6 if name == "LaProp" else 1e-12)


class Lamb(packages.Lamb):  # type: ignore[name-defined,misc]
    """The package's, without its bound of 10 on the length of a tensor."""

    clamp = float("inf")


MATRICES = SHAPES[1:]
OF_LAMB = {"weight_decouple": False, "adam_debias": True}  # else its step is 1/(1 − β₁ᵗ) times as long as the tensor
CAUTIOUS_LION = gradstep.optimizer(modify(rules.Lion, rules.Cautious))
NEW: dict[str, tuple[Any, Any, dict[str, Any], dict[str, Any], dict[str, Any], Any, float]] = {
    "StableAdamW": (gradstep.StableAdamW, packages.StableAdamW, DECAY | {"eps": 1e-6}, {}, {}, SHAPES, 1e-12),
    # Without correction, as version 3 of the paper; the package adds ε to the length of the step.
    "LAMB": (gradstep.LAMB, Lamb, DECAY, {"bias_correction": False}, OF_LAMB, SHAPES, 1e-5),
    # The package leaves vectors to SGD.
    "LARS": (gradstep.LARS, packages.LARS, {"lr": 0.5, "weight_decay": 0.1}, {}, {}, MATRICES, 1e-12),
    # The package adds ε to the root before its correction, and 1e-15 under the root, which shows in large tensors.
    "MARS": (gradstep.MARS, packages.MARS, DECAY | {"eps": 0.0}, {}, {"optimize_1d": True}, SHAPES[:2], 1e-9),
    "Lookahead": (
        gradstep.optimizer(modify(rules.AdamW, rules.Lookahead)),
        lambda params, **settings: packages.Lookahead(torch.optim.AdamW(params, **settings), k=5, alpha=0.5),
        *(DECAY, {}, {}, SHAPES, 1e-12),
    ),
    "Cautious": (CAUTIOUS_LION, packages.Lion, DECAY, {}, {"weight_decouple": True, "cautious": True}, SHAPES, 1e-12),
}
"""Our class and the package's, the settings of both, of ours and of the package's, the shapes, and the bound."""


@pytest.mark.parametrize("name", NEW)
def test_fifty_steps_of_rules_that_look_at_tensors(name):
    ours, theirs, settings, own, of_the_package, shapes, bound = NEW[name]
    start, steps = starts(shapes, torch.float64), gradients(50, shapes, torch.float64)
    _, params = trained(ours, start, steps, **settings, **own)
    targets = leaves(start)
    optimizer = theirs(targets, **settings, **of_the_package)
    if name == "MARS":  # the package's last gradient is 0 at first, where the paper's is the first one
        give(targets, steps[0])
        optimizer.init_group(optimizer.param_groups[0])
        for p in targets:
            optimizer.state[p]["last_grad"].copy_(p.grad)
    walk(optimizer, targets, steps)
    for p, q in zip(params, targets, strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=bound)

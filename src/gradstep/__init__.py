"""Optimizers for training neural networks: the mathematics of each is written once and runs on every engine.

>>> import torch, gradstep
>>> model = torch.nn.Linear(10, 1)
>>> optimizer = gradstep.AdamW(model.parameters(), lr=1e-3)
>>> model(torch.ones(4, 10)).sum().backward()
>>> optimizer.step(max_grad_norm=1.0)
>>> optimizer.zero_grad()
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from gradstep import rules, schedules
from gradstep.rules import RULES, Modifier, Rule, Slot, State, StepRule, modify
from gradstep.variants import VARIANTS

__version__ = "0.2.0"

HOMES: dict[str, tuple[str, ...]] = {
    "gradstep.judge": ("Verdict", "check", "conformance"),
    "gradstep.judge.updates.watch": ("watch_rules",),
    "gradstep.monitor.doctor": ("Diagnosis", "diagnose"),
    "gradstep.monitor.monitor": ("Monitor",),
    "gradstep.optimizers": (
        "OPTIMIZERS",
        "AveragingOptimizer",
        "Optimizer",
        "Pages",
        "StepReport",
        "create",
        "optimizer",
        *RULES,
        *VARIANTS,
    ),
    "gradstep.optimizers.checkpoint.convert": ("convert_state",),
    "gradstep.optimizers.checkpoint.split": ("split_by_rule",),
    "gradstep.optimizers.checkpoint.matching": ("LoadReport",),
    "gradstep.optimizers.released": ("GradientRelease", "release_gradients"),
    "gradstep.planner": ("Plan", "Plans", "plan", "plans"),
    "gradstep.training.checkpoints": ("load_checkpoint", "save_checkpoint"),
    "gradstep.training.groups": ("param_groups",),
    "gradstep.training.lr_find": ("LrFound", "lr_find"),
    "gradstep.training.lr_sweep": ("LrSuggestion", "LrSweep"),
    "gradstep.training.scheduler": ("Scheduler",),
    "gradstep.training.outcome": ("UpdateOutcome",),
    "gradstep.training.stepper": ("Stepper",),
}
"""The modules of the other public names; each is imported when one of its names is first used."""

_HOME = {name: home for home, names in HOMES.items() for name in names}

__all__ = [
    "RULES",
    "Modifier",
    "Rule",
    "Slot",
    "State",
    "StepRule",
    "__version__",
    "modify",
    "rules",
    "schedules",
    *_HOME,
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `import gradstep` does not need torch."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        value = globals()[name] = getattr(import_module(_HOME[name]), name)  # later uses find it themselves
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise ModuleNotFoundError(
            f'gradstep.{name} works with PyTorch, which is not installed: pip install "gradstep[torch]"', name="torch"
        ) from error
    return value


def __dir__() -> list[str]:
    return sorted(__all__)

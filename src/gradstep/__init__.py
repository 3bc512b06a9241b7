"""Optimizers for training neural networks: each one's mathematics written once, run on every engine.

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

from gradstep import rules
from gradstep.rules import RULES, Rule, Slot, State

__version__ = "0.1.0"

_TORCH = ("OPTIMIZERS", "Optimizer", "StepReport", "optimizer", *RULES)

__all__ = ["RULES", "Rule", "Slot", "State", "__version__", "rules", *_TORCH]


def __getattr__(name: str) -> Any:
    """The PyTorch front, imported when it is first used, so that NumPy users need no torch."""
    if name not in _TORCH:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        import torch  # noqa: F401 - is it there?
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f'gradstep.{name} is an optimizer for PyTorch, which is not installed: pip install "gradstep[torch]"'
        ) from error
    return getattr(import_module("gradstep.optimizers"), name)


def __dir__() -> list[str]:
    return sorted(__all__)

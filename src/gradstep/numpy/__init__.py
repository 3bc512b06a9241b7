"""Optimizers for NumPy, and a small tensor with gradients, without torch.

They use the same rules and the same fused kernel as the PyTorch front, on plain arrays. The interface is that of a
teaching framework: parameters are objects with ``data`` and ``grad``.

>>> import numpy as np
>>> import gradstep.numpy as gn
>>> rng = np.random.default_rng(0)
>>> x = rng.standard_normal((256, 4))
>>> y = (x[:, 0] * x[:, 1] > 0).astype(int)  # no line separates these classes
>>> model = gn.Sequential(gn.Linear(4, 32, rng=rng), gn.ReLU(), gn.Linear(32, 2, rng=rng))
>>> loss_fn = gn.CrossEntropyLoss()
>>> optimizer = gn.AdamW(model.parameters(), lr=0.01)
>>> for step in range(200):
...     loss = loss_fn(model(x), y)
...     optimizer.zero_grad()
...     loss.backward()
...     norm = gn.clip_grad_norm(model.parameters(), max_norm=1.0)
...     optimizer.step()
>>> loss.item() < 0.1
True

Gradients may also be computed by hand:

>>> w = np.array([5.0, -3.0])
>>> p = gn.Parameter(w)  # shares the array
>>> optimizer = gn.SGD([p], lr=0.1, momentum=0.9)
>>> for step in range(200):
...     p.grad = 2 * w  # the gradient of the sum of squares
...     optimizer.step()
>>> bool(abs(w).max() < 1e-3)
True
"""

from typing import Any

from gradstep.numpy.base import HasGradient, Optimizer, Parameter
from gradstep.numpy.classic import SGD, Adam, AdamW, optimizer
from gradstep.numpy.layers import CrossEntropyLoss, Layer, Linear, Loss, MSELoss, ReLU, Sequential
from gradstep.numpy.rule_optimizer import RuleOptimizer
from gradstep.numpy.tensor import Tensor, no_grad
from gradstep.numpy.training import CosineSchedule, clip_grad_norm
from gradstep.rules import RULES


def __getattr__(name: str) -> Any:
    """Return the optimizer class of another rule, made at its first use."""
    if name in RULES:
        return optimizer(RULES[name])
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)


__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "CosineSchedule",
    "CrossEntropyLoss",
    "HasGradient",
    "Layer",
    "Linear",
    "Loss",
    "MSELoss",
    "Optimizer",
    "Parameter",
    "ReLU",
    "RuleOptimizer",
    "Sequential",
    "Tensor",
    "clip_grad_norm",
    "no_grad",
    "optimizer",
    *(name for name in RULES if name not in ("SGD", "Adam", "AdamW")),
]

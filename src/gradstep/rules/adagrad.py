"""Adagrad: each element divided by the root of the sum of its squared gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from gradstep.rules.base import Array, Coefficients, Slot, State, StepRule, sqrt
from gradstep.rules.settings import epsilon, learning_rate, nonnegative


@final
@dataclass(frozen=True)
class Adagrad(StepRule):
    r"""Adagrad: the first adaptive rate; it only ever falls, which suits rare features.

    .. math::
        g_t &= \nabla f(\theta_{t-1}) + \lambda\theta_{t-1} \\
        G_t &= G_{t-1} + g_t^2, \qquad G_0 = \delta \\
        \theta_t &= \theta_{t-1} - \frac{\eta}{1+(t-1)\gamma}\,\frac{g_t}{\sqrt{G_t}+\epsilon}

    Args:
        lr: learning rate η, at least 0.
        lr_decay: γ, at least 0.
        weight_decay: λ, at least 0, added to the gradient.
        initial_accumulator_value: δ, at least 0.
        eps: ε, added outside the root, at least 0.
        maximize: climb instead of descend.

    State: ``sum`` G, of the parameter's shape, created at the first step (torch.optim creates it at construction).

    Family: SGD; ÷ root of the sum of g².
    Taken for: sparse features.

    Source: Duchi, Hazan and Singer, "Adaptive Subgradient Methods for Online Learning and Stochastic Optimization",
    JMLR 12 (2011), the diagonal form; γ and δ as in torch.optim.

    >>> import numpy as np, gradstep.numpy as gn
    >>> p = gn.Parameter(np.array([1.0, 1.0]), grad=np.array([0.01, -100.0]))
    >>> optimizer = gn.Adagrad([p], lr=0.1)
    >>> optimizer.step()
    >>> optimizer.step()  # shorter by √2
    >>> p.data.round(4).tolist()
    [0.8293, 1.1707]
    """

    lr: float = learning_rate(1e-2)
    lr_decay: float = nonnegative(0.0)
    weight_decay: float = nonnegative(0.0)
    initial_accumulator_value: float = nonnegative(0.0)
    eps: float = epsilon(1e-10)

    decays = False

    def slots(self, ndim: int) -> tuple[Slot, ...]:
        return (Slot("sum", signed=False, fill=self.initial_accumulator_value),)

    def coefficients(self, step: int, **scalars: float) -> dict[str, float]:
        return {"lr": self.lr / (1 + (step - 1) * self.lr_decay), "l2": self.weight_decay, "eps": self.eps}

    @staticmethod
    def step(p: Array, g: Array, s: State, c: Coefficients) -> Array:
        g = g + c.l2 * p
        s.sum = s.sum + g * g
        return c.lr * g / (sqrt(s.sum) + c.eps)

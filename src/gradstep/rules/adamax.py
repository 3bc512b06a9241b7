"""Adamax: Adam with the largest recent gradient in place of the mean square."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from gradstep.rules.base import Array, Coefficients, Slot, State, StepRule, maximum
from gradstep.rules.settings import betas, epsilon, learning_rate, nonnegative


@final
@dataclass(frozen=True)
class Adamax(StepRule):
    r"""Adamax: Adam in the infinity norm; the scale cannot underflow as a square does.

    .. math::
        g_t &= \nabla f(\theta_{t-1}) + \lambda\theta_{t-1} \\
        m_t &= \beta_1 m_{t-1} + (1-\beta_1) g_t \\
        u_t &= \max(\beta_2 u_{t-1},\, |g_t| + \epsilon) \\
        \theta_t &= \theta_{t-1} - \frac{\eta}{1-\beta_1^t}\,\frac{m_t}{u_t}

    Args:
        lr: learning rate η, at least 0.
        betas: averaging coefficients (β₁, β₂), each in [0, 1).
        eps: ε, added to \|g\| as in torch.optim (the paper has none), at least 0.
        weight_decay: λ, at least 0, added to the gradient.
        maximize: climb instead of descend.

    State: ``exp_avg`` m and ``exp_inf`` u, each of the parameter's shape.

    Family: Adam; the largest magnitude of g in place of the root.
    Taken for: gradients with rare large values.

    Source: Kingma and Ba, arXiv:1412.6980, Algorithm 2.

    >>> import numpy as np, gradstep.numpy as gn
    >>> p = gn.Parameter(np.array([1.0, 1.0]), grad=np.array([0.01, -100.0]))
    >>> gn.Adamax([p], lr=0.1).step()  # the size of the first step is the learning rate
    >>> p.data.round(4).tolist()
    [0.9, 1.1]
    """

    lr: float = learning_rate(2e-3)
    betas: tuple[float, float] = betas(0.9, 0.999)
    eps: float = epsilon(1e-8)
    weight_decay: float = nonnegative(0.0)

    decays = False

    def slots(self, ndim: int) -> tuple[Slot, ...]:
        return (Slot("exp_avg"), Slot("exp_inf", signed=False))

    def coefficients(self, step: int, **scalars: float) -> dict[str, float]:
        beta1, beta2 = self.betas
        return {
            "beta1": beta1,
            "rest1": 1 - beta1,
            "beta2": beta2,
            "step_size": self.lr / (1 - beta1**step),
            "eps": self.eps,
            "l2": self.weight_decay,
        }

    @staticmethod
    def step(p: Array, g: Array, s: State, c: Coefficients) -> Array:
        g = g + c.l2 * p
        s.exp_avg = c.beta1 * s.exp_avg + c.rest1 * g
        s.exp_inf = maximum(c.beta2 * s.exp_inf, abs(g) + c.eps)
        return c.step_size * s.exp_avg / s.exp_inf

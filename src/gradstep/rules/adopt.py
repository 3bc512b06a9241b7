"""ADOPT: Adam that divides each gradient by the average of the squares before it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from gradstep.rules.base import Array, Coefficients, Slot, State, StepRule, maximum, sign, sqrt, where
from gradstep.rules.settings import betas, epsilon, flag, learning_rate, nonnegative


@final
@dataclass(frozen=True)
class ADOPT(StepRule):
    r"""ADOPT: the root does not contain the gradient that it divides, which makes the step converge for any β₂.

    .. math::
        g_t &= \nabla f(\theta_{t-1}) + \lambda\theta_{t-1}, \qquad v_1 = g_1^2, \quad m_1 = 0, \quad
            \theta_1 = \theta_0 \\
        m_t &= \beta_1 m_{t-1} + (1-\beta_1)
            \operatorname{clip}\Bigl(\frac{g_t}{\max(\sqrt{v_{t-1}}, \epsilon)},\, (t-1)^{1/4}\Bigr) \\
        \theta_t &= \theta_{t-1} - \eta\, m_t, \qquad v_t = \beta_2 v_{t-1} + (1-\beta_2) g_t^2

    Args:
        lr: learning rate η, at least 0.
        betas: averaging coefficients (β₁, β₂) of the divided gradient and of the squared one, each in [0, 1).
        eps: ε, the least root that divides, at least 0.
        weight_decay: λ, at least 0; in the gradient, or on the weight if ``decoupled_weight_decay``.
        decoupled_weight_decay: decay the weight as AdamW does (``decouple`` in the authors' code).
        maximize: climb instead of descend.

    State: ``exp_avg`` m and ``exp_avg_sq`` v, each of the parameter's shape.

    Family: LaProp; divided by the root before this gradient.
    Taken for: as Adam where β₂ is hard to choose.

    Source: Taniguchi et al., "ADOPT: Modified Adam Can Converge with Any β₂ with the Optimal Rate", arXiv:2411.02853,
    Algorithm 2, and the authors' code. The first step only sets v, without decay; step t of the paper is step
    t + 1 here. As in that code the clip is (t − 1)^(1/4) and applies by default; another clip, or none, is not offered.

    >>> import numpy as np, gradstep.numpy as gn
    >>> p = gn.Parameter(np.array([1.0, 1.0]), grad=np.array([0.01, -100.0]))
    >>> optimizer = gn.ADOPT([p], lr=0.1)
    >>> optimizer.step()
    >>> optimizer.step()  # the first that moves: 1 − β₁ of the learning rate
    >>> p.data.round(4).tolist()
    [0.99, 1.01]
    """

    lr: float = learning_rate(1e-3)
    betas: tuple[float, float] = betas(0.9, 0.9999)
    eps: float = epsilon(1e-6)
    weight_decay: float = nonnegative(0.0)
    decoupled_weight_decay: bool = flag()

    def slots(self, ndim: int) -> tuple[Slot, ...]:
        return (Slot("exp_avg"), Slot("exp_avg_sq", signed=False))

    def coefficients(self, step: int, **scalars: float) -> dict[str, float]:
        beta1, beta2 = self.betas
        first, decoupled = step == 1, self.decoupled_weight_decay
        return {
            "beta1": beta1,
            "rest1": 1 - beta1,
            "beta2": 0.0 if first else beta2,
            "rest2": 1.0 if first else 1 - beta2,
            "clip": max(0, step - 1) ** 0.25,
            "lr": self.lr,
            # While v is not used, eps = 0 must not turn it into 0/0.
            "eps": 1.0 if first else self.eps,
            "l2": 0.0 if decoupled else self.weight_decay,
            "keep": 1 - self.lr * self.weight_decay if decoupled and not first else 1.0,
        }

    @staticmethod
    def step(p: Array, g: Array, s: State, c: Coefficients) -> Array:
        g = g + c.l2 * p
        u = g / maximum(sqrt(s.exp_avg_sq), c.eps)
        u = where(abs(u) > c.clip, c.clip * sign(u), u)
        s.exp_avg = c.beta1 * s.exp_avg + c.rest1 * u
        s.exp_avg_sq = c.beta2 * s.exp_avg_sq + c.rest2 * (g * g)
        return c.lr * s.exp_avg

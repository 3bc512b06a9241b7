"""LaProp: momentum of gradients that have been divided already."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from gradstep.rules.base import Array, Coefficients, Slot, State, StepRule, sqrt
from gradstep.rules.settings import betas, epsilon, learning_rate, nonnegative


@final
@dataclass(frozen=True)
class LaProp(StepRule):
    r"""LaProp: each gradient is divided by the root before it enters the momentum, so that β₁ and β₂ are independent.

    .. math::
        v_t &= \beta_2 v_{t-1} + (1-\beta_2) g_t^2 \\
        m_t &= \beta_1 m_{t-1} + (1-\beta_1)\,\frac{g_t}{\sqrt{v_t/(1-\beta_2^t)}+\epsilon} \\
        \theta_t &= (1-\eta\lambda)\,\theta_{t-1} - \eta\,\frac{m_t}{1-\beta_1^t}

    Args:
        lr: learning rate η, at least 0.
        betas: averaging coefficients (β₁, β₂) of the divided gradient and of the squared one, each in [0, 1).
        eps: ε, added outside the root, at least 0.
        weight_decay: λ, at least 0, on the weight itself.
        maximize: climb instead of descend.

    State: ``exp_avg`` m and ``exp_avg_sq`` v, each of the parameter's shape.

    Family: AdamW; momentum after the division.
    Taken for: as AdamW; small β₂ and large β₁.

    Source: Ziyin, Wang and Ueda, "LaProp: Separating Momentum and Adaptivity in Adam", arXiv:2002.04839, Algorithm 1
    (there μ and ν are β₁ and β₂). Decay acts on the old weight, as in AdamW. Deviations from the authors' code: there
    m has the learning rate in it and is divided by an equal average of learning rates, which is the same as long as
    the rate is constant; here the rate multiplies m, so that a schedule acts at once. There the decay is not multiplied
    by the learning rate, and follows the step.

    >>> import numpy as np, gradstep.numpy as gn
    >>> p = gn.Parameter(np.array([1.0, 1.0]), grad=np.array([0.01, -100.0]))
    >>> gn.LaProp([p], lr=0.1).step()  # the size of the first step is the learning rate
    >>> p.data.round(4).tolist()
    [0.9, 1.1]
    """

    lr: float = learning_rate(4e-4)
    betas: tuple[float, float] = betas(0.9, 0.999)
    eps: float = epsilon(1e-15)
    weight_decay: float = nonnegative(0.0)

    def slots(self, ndim: int) -> tuple[Slot, ...]:
        return (Slot("exp_avg"), Slot("exp_avg_sq", signed=False))

    def coefficients(self, step: int, **scalars: float) -> dict[str, float]:
        beta1, beta2 = self.betas
        return {
            "beta1": beta1,
            "rest1": 1 - beta1,
            "beta2": beta2,
            "rest2": 1 - beta2,
            "step_size": self.lr / (1 - beta1**step),
            "unbias2": (1 - beta2**step) ** -0.5,
            "eps": self.eps,
            "keep": 1 - self.lr * self.weight_decay,
        }

    @staticmethod
    def step(p: Array, g: Array, s: State, c: Coefficients) -> Array:
        s.exp_avg_sq = c.beta2 * s.exp_avg_sq + c.rest2 * (g * g)
        s.exp_avg = c.beta1 * s.exp_avg + c.rest1 * g / (sqrt(s.exp_avg_sq) * c.unbias2 + c.eps)
        return c.step_size * s.exp_avg

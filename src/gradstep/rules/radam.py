"""RAdam: Adam that waits for the variance to be known before it adapts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from gradstep.rules.base import Array, Coefficients, Slot, State, StepRule, sqrt
from gradstep.rules.settings import betas, epsilon, flag, learning_rate, nonnegative


@final
@dataclass(frozen=True)
class RAdam(StepRule):
    r"""RAdam: plain momentum in the first steps, then Adam scaled by how well v is known; a warmup built in.

    .. math::
        m_t &= \beta_1 m_{t-1} + (1-\beta_1) g_t, \qquad v_t = \beta_2 v_{t-1} + (1-\beta_2) g_t^2 \\
        \rho_t &= \rho_\infty - \frac{2t\beta_2^t}{1-\beta_2^t}, \qquad \rho_\infty = \frac{2}{1-\beta_2} - 1 \\
        r_t &= \sqrt{\frac{(\rho_t-4)(\rho_t-2)\rho_\infty}{(\rho_\infty-4)(\rho_\infty-2)\rho_t}} \\
        \theta_t &= \theta_{t-1} - \eta\,\frac{m_t}{1-\beta_1^t}\cdot
            \begin{cases} r_t \sqrt{1-\beta_2^t}\,/\,(\sqrt{v_t}+\epsilon) & \rho_t > 5 \\ 1 & \text{else}\end{cases}

    Args:
        lr: learning rate η, at least 0.
        betas: averaging coefficients (β₁, β₂), each in [0, 1).
        eps: ε, added to the root of the *uncorrected* v as in torch.optim, at least 0.
        weight_decay: λ, at least 0; in the gradient, or on the weight if ``decoupled_weight_decay``.
        decoupled_weight_decay: decay the weight as AdamW does.
        maximize: climb instead of descend.

    State: ``exp_avg`` m and ``exp_avg_sq`` v, each of the parameter's shape.

    Family: Adam; no adaptive step before v is known.
    Taken for: training without a warmup.

    Source: Liu et al., "On the Variance of the Adaptive Learning Rate and Beyond", arXiv:1908.03265, Algorithm 2; the
    threshold of 5 (the paper's is 4) as in the authors' code and torch.optim.

    >>> import numpy as np, gradstep.numpy as gn
    >>> p = gn.Parameter(np.array([1.0, 1.0]), grad=np.array([0.01, -100.0]))
    >>> gn.RAdam([p], lr=0.1).step()  # the first five steps are momentum alone
    >>> p.data.round(4).tolist()
    [0.999, 11.0]
    """

    lr: float = learning_rate(1e-3)
    betas: tuple[float, float] = betas(0.9, 0.999)
    eps: float = epsilon(1e-8)
    weight_decay: float = nonnegative(0.0)
    decoupled_weight_decay: bool = flag()

    def slots(self, ndim: int) -> tuple[Slot, ...]:
        return (Slot("exp_avg"), Slot("exp_avg_sq", signed=False))

    def coefficients(self, step: int, **scalars: float) -> dict[str, float]:
        beta1, beta2 = self.betas
        unbiased = self.lr / (1 - beta1**step)
        bias2 = 1 - beta2**step
        rho_inf = 2 / (1 - beta2) - 1
        rho = rho_inf - 2 * step * beta2**step / bias2
        adapts = rho > 5
        rectification = (
            ((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho)) ** 0.5 if adapts else 0.0
        )
        return {
            "beta1": beta1,
            "rest1": 1 - beta1,
            "beta2": beta2,
            "rest2": 1 - beta2,
            "plain": 0.0 if adapts else unbiased,
            "adaptive": unbiased * rectification * bias2**0.5,
            # While v is not used, eps = 0 must not turn it into 0/0.
            "eps": self.eps if adapts else 1.0,
            "l2": 0.0 if self.decoupled_weight_decay else self.weight_decay,
            "keep": 1 - self.lr * self.weight_decay if self.decoupled_weight_decay else 1.0,
        }

    @staticmethod
    def step(p: Array, g: Array, s: State, c: Coefficients) -> Array:
        g = g + c.l2 * p
        s.exp_avg = c.beta1 * s.exp_avg + c.rest1 * g
        s.exp_avg_sq = c.beta2 * s.exp_avg_sq + c.rest2 * (g * g)
        return s.exp_avg * (c.plain + c.adaptive / (sqrt(s.exp_avg_sq) + c.eps))

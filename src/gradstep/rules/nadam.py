"""NAdam: Adam with Nesterov's look-ahead."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

from gradstep.rules.base import Array, Coefficients, Slot, State, StepRule, sqrt
from gradstep.rules.settings import betas, epsilon, flag, learning_rate, nonnegative


@final
@dataclass(frozen=True)
class NAdam(StepRule):
    r"""NAdam: Adam whose momentum looks one step ahead, with the momentum warmed up by a schedule.

    .. math::
        \mu_t &= \beta_1\,(1 - \tfrac12\, 0.96^{t\psi}) \\
        m_t &= \beta_1 m_{t-1} + (1-\beta_1) g_t, \qquad v_t = \beta_2 v_{t-1} + (1-\beta_2) g_t^2 \\
        \hat m_t &= \frac{\mu_{t+1}\, m_t}{1-\prod_{i=1}^{t+1}\mu_i}
                  + \frac{(1-\mu_t)\, g_t}{1-\prod_{i=1}^{t}\mu_i} \\
        \theta_t &= \theta_{t-1} - \eta\,\frac{\hat m_t}{\sqrt{v_t/(1-\beta_2^t)}+\epsilon}

    Args:
        lr: learning rate η, at least 0.
        betas: averaging coefficients (β₁, β₂), each in [0, 1).
        eps: ε, added outside the root, at least 0.
        weight_decay: λ, at least 0; in the gradient, or on the weight if ``decoupled_weight_decay``.
        momentum_decay: ψ, at least 0.
        decoupled_weight_decay: decay the weight as AdamW does.
        maximize: climb instead of descend.

    State: ``exp_avg`` m, ``exp_avg_sq`` v of the parameter's shape, and the scalar ``mu_product`` ∏μ.

    Family: Adam; Nesterov's momentum.
    Taken for: as Adam; at times a little faster.

    Source: Dozat, "Incorporating Nesterov Momentum into Adam", ICLR 2016 workshop, Algorithm 2, with torch.optim's
    schedule of μ (ψ = 0.004; others differ).

    >>> import numpy as np, gradstep.numpy as gn
    >>> p = gn.Parameter(np.array([1.0, 1.0]), grad=np.array([0.01, -100.0]))
    >>> gn.NAdam([p], lr=0.1).step()  # a little longer than Adam's first step of 0.1
    >>> p.data.round(4).tolist()
    [0.8944, 1.1056]
    """

    lr: float = learning_rate(2e-3)
    betas: tuple[float, float] = betas(0.9, 0.999)
    eps: float = epsilon(1e-8)
    weight_decay: float = nonnegative(0.0)
    momentum_decay: float = nonnegative(4e-3)
    decoupled_weight_decay: bool = flag()

    scalars: ClassVar[Mapping[str, float]] = {"mu_product": 1.0}

    def slots(self, ndim: int) -> tuple[Slot, ...]:
        return (Slot("exp_avg"), Slot("exp_avg_sq", signed=False))

    def mu(self, step: int) -> float:
        """Return the momentum of a ``step``, μ_t."""
        decayed: float = 0.96 ** (step * self.momentum_decay)
        return self.betas[0] * (1 - 0.5 * decayed)

    def coefficients(self, step: int, **scalars: float) -> dict[str, float]:
        beta1, beta2 = self.betas
        mu, mu_next = self.mu(step), self.mu(step + 1)
        mu_product = scalars["mu_product"] * mu
        return {
            "beta1": beta1,
            "rest1": 1 - beta1,
            "beta2": beta2,
            "rest2": 1 - beta2,
            "along_gradient": self.lr * (1 - mu) / (1 - mu_product),
            "along_average": self.lr * mu_next / (1 - mu_product * mu_next),
            "unbias2": (1 - beta2**step) ** -0.5,
            "eps": self.eps,
            "mu_product": mu_product,
            "l2": 0.0 if self.decoupled_weight_decay else self.weight_decay,
            "keep": 1 - self.lr * self.weight_decay if self.decoupled_weight_decay else 1.0,
        }

    @staticmethod
    def step(p: Array, g: Array, s: State, c: Coefficients) -> Array:
        g = g + c.l2 * p
        s.exp_avg = c.beta1 * s.exp_avg + c.rest1 * g
        s.exp_avg_sq = c.beta2 * s.exp_avg_sq + c.rest2 * (g * g)
        ahead = c.along_gradient * g + c.along_average * s.exp_avg
        return ahead / (sqrt(s.exp_avg_sq) * c.unbias2 + c.eps)

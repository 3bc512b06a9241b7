"""AdaBelief: Adam that divides by the deviation of the gradient from its average."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from gradstep.rules.base import Array, Coefficients, Slot, State, StepRule, sqrt
from gradstep.rules.settings import betas, epsilon, learning_rate, nonnegative


@final
@dataclass(frozen=True)
class AdaBelief(StepRule):
    r"""AdaBelief: long steps where the gradient is as its average predicts, short ones where it is not.

    .. math::
        m_t &= \beta_1 m_{t-1} + (1-\beta_1) g_t \\
        s_t &= \beta_2 s_{t-1} + (1-\beta_2) (g_t - m_t)^2 + \epsilon \\
        \theta_t &= (1-\eta\lambda)\,\theta_{t-1}
                    - \eta\,\frac{m_t/(1-\beta_1^t)}{\sqrt{s_t/(1-\beta_2^t)}+\epsilon}

    Args:
        lr: learning rate η, at least 0.
        betas: averaging coefficients (β₁, β₂) of the gradient and of its squared deviation, each in [0, 1).
        eps: ε, at least 0, added to s at *every* step and again outside the root. The sum in s grows to ε/(1 − β₂).
        weight_decay: λ, at least 0, on the weight itself.
        maximize: climb instead of descend.

    State: ``exp_avg`` m and ``exp_avg_var`` s, each of the parameter's shape.

    Family: AdamW; the square of g − m in place of g².
    Taken for: as Adam; gradients that keep their size and sign.

    Source: Zhuang et al., "AdaBelief Optimizer: Adapting Stepsizes by the Belief in Observed Gradients",
    arXiv:2010.07468, Algorithm 2, with the decoupled decay of the authors' code. Deviation from that code: its option
    ``rectify``, on by default there, is not part of the paper's algorithm and not here.

    >>> import numpy as np, gradstep.numpy as gn
    >>> p = gn.Parameter(np.array([1.0, 1.0]), grad=np.array([0.01, -100.0]))
    >>> gn.AdaBelief([p], lr=0.09).step()  # at first g - m is β₁ g, so that a step is lr / β₁ long
    >>> p.data.round(4).tolist()
    [0.9, 1.1]
    """

    lr: float = learning_rate(1e-3)
    betas: tuple[float, float] = betas(0.9, 0.999)
    eps: float = epsilon(1e-16)
    weight_decay: float = nonnegative(0.0)

    def slots(self, ndim: int) -> tuple[Slot, ...]:
        return (Slot("exp_avg"), Slot("exp_avg_var", signed=False))

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
        s.exp_avg = c.beta1 * s.exp_avg + c.rest1 * g
        deviation = g - s.exp_avg
        s.exp_avg_var = c.beta2 * s.exp_avg_var + c.rest2 * (deviation * deviation) + c.eps
        return c.step_size * s.exp_avg / (sqrt(s.exp_avg_var) * c.unbias2 + c.eps)

"""Lion: the sign of a momentum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from gradstep.rules.base import Array, Coefficients, Slot, State, StepRule, sign
from gradstep.rules.settings import betas, learning_rate, nonnegative


@final
@dataclass(frozen=True)
class Lion(StepRule):
    r"""Lion: every element moves by the same amount, in the direction of an interpolated momentum; half Adam's state.

    .. math::
        c_t &= \beta_1 m_{t-1} + (1-\beta_1) g_t \\
        \theta_t &= (1-\eta\lambda)\,\theta_{t-1} - \eta\,\operatorname{sign}(c_t) \\
        m_t &= \beta_2 m_{t-1} + (1-\beta_2) g_t

    Args:
        lr: learning rate η, at least 0; every step has this size, so take 3 to 10 times less than for AdamW.
        betas: (β₁, β₂) of the direction and of the momentum, each in [0, 1).
        weight_decay: λ, at least 0, on the weight itself; take 3 to 10 times more than for AdamW, so that ηλ stays.
        maximize: climb instead of descend.

    State: ``exp_avg`` m, of the parameter's shape.

    Family: Adam; the sign of the momentum.
    Taken for: large batches, less memory.

    Source: Chen et al., "Symbolic Discovery of Optimization Algorithms", arXiv:2302.06675, Algorithm 2.

    >>> import numpy as np, gradstep.numpy as gn
    >>> p = gn.Parameter(np.array([1.0, 1.0]), grad=np.array([0.01, -100.0]))
    >>> gn.Lion([p], lr=0.1).step()
    >>> p.data.round(4).tolist()
    [0.9, 1.1]
    """

    lr: float = learning_rate(1e-4)
    betas: tuple[float, float] = betas(0.9, 0.99)
    weight_decay: float = nonnegative(0.0)

    def slots(self, ndim: int) -> tuple[Slot, ...]:
        return (Slot("exp_avg"),)

    def coefficients(self, step: int, **scalars: float) -> dict[str, float]:
        beta1, beta2 = self.betas
        return {
            "beta1": beta1,
            "rest1": 1 - beta1,
            "beta2": beta2,
            "rest2": 1 - beta2,
            "lr": self.lr,
            "keep": 1 - self.lr * self.weight_decay,
        }

    @staticmethod
    def step(p: Array, g: Array, s: State, c: Coefficients) -> Array:
        direction = sign(c.beta1 * s.exp_avg + c.rest1 * g)
        s.exp_avg = c.beta2 * s.exp_avg + c.rest2 * g
        return c.lr * direction

"""LARS: momentum whose gradients are as long, for each tensor, as its weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from gradstep.rules.base import Array, Coefficients, Slot, State, StepRule, sqrt, where
from gradstep.rules.ops import mean
from gradstep.rules.settings import learning_rate, nonnegative


@final
@dataclass(frozen=True)
class LARS(StepRule):
    r"""LARS: SGD with momentum, each tensor's gradient scaled to the length of its weights.

    .. math::
        \lambda_t &= \kappa\,\frac{\lVert\theta_{t-1}\rVert}
            {\lVert g_t\rVert + \beta\lVert\theta_{t-1}\rVert} \\
        b_t &= \mu b_{t-1} + \lambda_t\,(g_t + \beta\theta_{t-1}), \qquad \theta_t = \theta_{t-1} - \eta\, b_t

    with norms over the whole tensor. If the weights or the denominator are 0, λ is 1.

    Args:
        lr: learning rate η, at least 0.
        momentum: μ, at least 0.
        weight_decay: β, at least 0, in the gradient.
        trust_coefficient: κ, at least 0: how far a tensor may trust its gradient.
        maximize: climb instead of descend.

    State: ``momentum_buffer`` b, of the parameter's shape.

    Family: SGD, momentum; a gradient as long as its tensor.
    Taken for: very large batches in vision.

    Source: You, Gitman and Ginsburg, "Large Batch Training of Convolutional Networks", arXiv:1708.03888, Algorithm 1.
    As in torch's SGD the learning rate multiplies the buffer; in the paper it enters the buffer, so that a schedule
    acts later. Many codes leave norms and biases to plain SGD: give them a group with ``"rule": "SGD"``.

    >>> import numpy as np, gradstep.numpy as gn
    >>> p = gn.Parameter(np.array([3.0, 4.0]), grad=np.array([6.0, 8.0]))
    >>> gn.LARS([p], lr=1.0, trust_coefficient=0.1).step()
    >>> p.data.round(4).tolist()  # a tenth of its own length
    [2.7, 3.6]
    """

    lr: float = learning_rate(1e-3)
    momentum: float = nonnegative(0.9)
    weight_decay: float = nonnegative(0.0)
    trust_coefficient: float = nonnegative(1e-3)

    decays = False
    sees = "means"

    def slots(self, ndim: int) -> tuple[Slot, ...]:
        return (Slot("momentum_buffer"),)

    def coefficients(self, step: int, **scalars: float) -> dict[str, float]:
        return {
            "lr": self.lr,
            "momentum": self.momentum,
            "l2": self.weight_decay,
            "trust": self.trust_coefficient,
        }

    @staticmethod
    def step(p: Array, g: Array, s: State, c: Coefficients) -> Array:
        size = sqrt(mean(p * p))
        length = sqrt(mean(g * g)) + c.l2 * size
        both = size * length > 0.0
        ratio = where(both, c.trust * size / where(both, length, 1.0), 1.0)
        s.momentum_buffer = c.momentum * s.momentum_buffer + ratio * (g + c.l2 * p)
        return c.lr * s.momentum_buffer

"""Adadelta: steps in the units of the parameter, without a learning rate to choose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from gradstep.rules.base import Array, Coefficients, Slot, State, StepRule, sqrt
from gradstep.rules.settings import epsilon, fraction, learning_rate, nonnegative


@final
@dataclass(frozen=True)
class Adadelta(StepRule):
    r"""Adadelta: the gradient times the ratio of two running roots, of past steps and of past gradients.

    .. math::
        g_t &= \nabla f(\theta_{t-1}) + \lambda\theta_{t-1} \\
        v_t &= \rho v_{t-1} + (1-\rho) g_t^2 \\
        \Delta_t &= \frac{\sqrt{u_{t-1}+\epsilon}}{\sqrt{v_t+\epsilon}}\, g_t \\
        u_t &= \rho u_{t-1} + (1-\rho) \Delta_t^2 \\
        \theta_t &= \theta_{t-1} - \eta\,\Delta_t

    Args:
        lr: η, at least 0; the paper has none (1).
        rho: averaging coefficient ρ, between 0 and 1.
        eps: ε, added *inside* both roots, at least 0; it sets the size of the first steps.
        weight_decay: λ, at least 0, added to the gradient.
        maximize: climb instead of descend.

    State: ``square_avg`` v and ``acc_delta`` u, each of the parameter's shape.

    Family: Adagrad; steps in units of the weight.
    Taken for: training without a tuned rate, historically.

    Source: Zeiler, "ADADELTA: An Adaptive Learning Rate Method", arXiv:1212.5701, Algorithm 1.

    >>> import numpy as np, gradstep.numpy as gn
    >>> p = gn.Parameter(np.array([1.0, 1.0]), grad=np.array([0.01, -100.0]))
    >>> gn.Adadelta([p]).step()  # first steps have about the size √(ε / (1 − ρ)), whatever the gradient
    >>> (p.data - 1).round(5).tolist()
    [-0.00302, 0.00316]
    """

    lr: float = learning_rate(1.0)
    rho: float = fraction(0.9)
    eps: float = epsilon(1e-6)
    weight_decay: float = nonnegative(0.0)

    decays = False

    def slots(self, ndim: int) -> tuple[Slot, ...]:
        return (Slot("square_avg", signed=False), Slot("acc_delta", signed=False))

    def coefficients(self, step: int, **scalars: float) -> dict[str, float]:
        return {
            "lr": self.lr,
            "rho": self.rho,
            "rest": 1 - self.rho,
            "eps": self.eps,
            "l2": self.weight_decay,
        }

    @staticmethod
    def step(p: Array, g: Array, s: State, c: Coefficients) -> Array:
        g = g + c.l2 * p
        s.square_avg = c.rho * s.square_avg + c.rest * (g * g)
        delta = sqrt(s.acc_delta + c.eps) / sqrt(s.square_avg + c.eps) * g
        s.acc_delta = c.rho * s.acc_delta + c.rest * (delta * delta)
        return c.lr * delta

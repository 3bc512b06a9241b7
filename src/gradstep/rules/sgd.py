"""Stochastic gradient descent with momentum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from gradstep.rules.base import Array, Coefficients, Slot, State, StepRule
from gradstep.rules.settings import flag, learning_rate, nonnegative, real


@final
@dataclass(frozen=True)
class SGD(StepRule):
    r"""SGD: gradient descent, with momentum and Nesterov's look-ahead as options.

    .. math::
        g_t &= \nabla f(\theta_{t-1}) + \lambda\theta_{t-1} \\
        b_t &= \mu b_{t-1} + (1-\tau) g_t, \qquad b_1 = g_1 \\
        \theta_t &= \theta_{t-1} - \eta\, b_t
            \quad\text{or, Nesterov,}\quad \theta_{t-1} - \eta\,(g_t + \mu b_t)

    Args:
        lr: learning rate η, at least 0.
        momentum: μ, at least 0; 0 keeps no state but the step count.
        dampening: τ; the first buffer is the undamped gradient, as in torch.optim.
        weight_decay: λ, at least 0, added to the gradient (for SGD the same as decay of the weight by η λ).
        nesterov: step along g + μ b; needs a momentum and no dampening.
        maximize: climb instead of descend.

    State: ``momentum_buffer`` b, of the parameter's shape, when ``momentum`` is not 0.

    Family: none; p − η g.
    Taken for: vision with a tuned rate; convex problems.

    Source: Sutskever et al., "On the importance of initialization and momentum in deep learning", ICML 2013, in
    torch.optim's form: the learning rate multiplies the buffer, so it may change in mid-run without old gradients
    keeping the old rate. One deviation: the undamped buffer belongs to the parameter's first step, so that a momentum
    switched on later with dampening starts damped, where torch does not damp the first buffer whenever it comes.

    >>> SGD(nesterov=True)
    Traceback (most recent call last):
    ValueError: Nesterov momentum requires a momentum and zero dampening
    """

    lr: float = learning_rate(1e-3)
    momentum: float = nonnegative(0.0)
    dampening: float = real(0.0)
    weight_decay: float = nonnegative(0.0)
    nesterov: bool = flag()

    decays = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.nesterov and (self.momentum == 0 or self.dampening != 0):
            raise ValueError("Nesterov momentum requires a momentum and zero dampening")

    def slots(self, ndim: int) -> tuple[Slot, ...]:
        return (Slot("momentum_buffer"),) if self.momentum else ()

    def coefficients(self, step: int, **scalars: float) -> dict[str, float]:
        return {
            "lr": self.lr,
            "l2": self.weight_decay,
            "momentum": self.momentum,
            "undamped": 1.0 if step == 1 else 1.0 - self.dampening,
            "along_gradient": 1.0 if self.nesterov else 0.0,
            "along_buffer": self.momentum if self.nesterov else 1.0,
        }

    @staticmethod
    def step(p: Array, g: Array, s: State, c: Coefficients) -> Array:
        g = g + c.l2 * p
        if "momentum_buffer" in s:
            s.momentum_buffer = c.momentum * s.momentum_buffer + c.undamped * g
            g = c.along_gradient * g + c.along_buffer * s.momentum_buffer
        return c.lr * g

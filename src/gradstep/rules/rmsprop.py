"""RMSprop: the gradient divided by the root of its running mean square."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from gradstep.rules.base import Array, Coefficients, Slot, State, StepRule, maximum, sqrt
from gradstep.rules.settings import epsilon, flag, learning_rate, nonnegative


@final
@dataclass(frozen=True)
class RMSprop(StepRule):
    r"""RMSprop: the gradient over the root of its average square, or of its variance; with momentum as an option.

    .. math::
        g_t &= \nabla f(\theta_{t-1}) + \lambda\theta_{t-1} \\
        v_t &= \alpha v_{t-1} + (1-\alpha) g_t^2 \\
        \bar g_t &= \alpha \bar g_{t-1} + (1-\alpha) g_t, \qquad
            \tilde v_t = v_t - \bar g_t^2 \quad\text{if centered, else } v_t \\
        b_t &= \mu b_{t-1} + \frac{g_t}{\sqrt{\tilde v_t}+\epsilon} \\
        \theta_t &= \theta_{t-1} - \eta\, b_t

    Args:
        lr: learning rate η, at least 0.
        alpha: averaging coefficient α, at least 0.
        eps: ε, added outside the root, at least 0.
        weight_decay: λ, at least 0, added to the gradient.
        momentum: μ, at least 0; adds a slot when it is not 0.
        centered: divide by the standard deviation of the gradient; adds a slot.
        maximize: climb instead of descend.

    State: ``square_avg`` v, ``grad_avg`` ḡ if centered, ``momentum_buffer`` b with momentum.

    Family: Adagrad; an average in place of the sum.
    Taken for: recurrent networks, non-stationary losses.

    Source: Tieleman and Hinton, "Lecture 6.5", Coursera 2012; centered: Graves, arXiv:1308.0850, eq. 38 to 45 (there ε
    is inside the root; here outside, as in torch.optim). The averages start at 0 and are not corrected.
    One deviation from torch.optim: a centered variance that rounding made negative counts as 0, where torch takes
    its root and writes NaN.

    >>> import numpy as np, gradstep.numpy as gn
    >>> p = gn.Parameter(np.array([1.0, 1.0]), grad=np.array([0.01, -100.0]))
    >>> gn.RMSprop([p], lr=0.1).step()  # √(1 − α) is 0.1: uncorrected, the first step is 10 learning rates
    >>> p.data.round(4).tolist()
    [0.0, 2.0]
    """

    lr: float = learning_rate(1e-2)
    alpha: float = nonnegative(0.99)
    eps: float = epsilon(1e-8)
    weight_decay: float = nonnegative(0.0)
    momentum: float = nonnegative(0.0)
    centered: bool = flag()

    decays = False

    def slots(self, ndim: int) -> tuple[Slot, ...]:
        centered = (Slot("grad_avg"),) if self.centered else ()
        momentum = (Slot("momentum_buffer"),) if self.momentum else ()
        return (Slot("square_avg", signed=False), *centered, *momentum)

    def coefficients(self, step: int, **scalars: float) -> dict[str, float]:
        return {
            "lr": self.lr,
            "alpha": self.alpha,
            "rest": 1 - self.alpha,
            "momentum": self.momentum,
            "eps": self.eps,
            "l2": self.weight_decay,
        }

    @staticmethod
    def step(p: Array, g: Array, s: State, c: Coefficients) -> Array:
        g = g + c.l2 * p
        s.square_avg = c.alpha * s.square_avg + c.rest * (g * g)
        v = s.square_avg
        if "grad_avg" in s:
            s.grad_avg = c.alpha * s.grad_avg + c.rest * g
            v = maximum(v - s.grad_avg * s.grad_avg, 0.0)
        step = g / (sqrt(v) + c.eps)
        if "momentum_buffer" in s:
            step = s.momentum_buffer = c.momentum * s.momentum_buffer + step
        return c.lr * step

"""ASGD: gradient descent whose weights are averaged beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

from gradstep.rules.base import Array, Coefficients, Rule, Slot, State
from gradstep.rules.settings import learning_rate, nonnegative, real


@final
@dataclass(frozen=True)
class ASGD(Rule):
    r"""ASGD: gradient descent, and beside it the average of the weights since step t₀, which varies less.

    .. math::
        g_t &= \nabla f(\theta_{t-1}) + \lambda\theta_{t-1} \\
        \theta_t &= (1-\Lambda\eta_t)\,\theta_{t-1} - \eta_t g_t, \qquad
            \eta_{t+1} = \frac{\eta}{(1+\Lambda\eta t)^{\alpha}}, \quad \eta_1 = \eta \\
        a_t &= a_{t-1} + \mu_t(\theta_t - a_{t-1}), \qquad \mu_{t+1} = \frac{1}{\max(1, t-t_0)}, \quad \mu_1 = 1

    Args:
        lr: learning rate η, at least 0. A new value acts from the step after the next on, as in torch.optim.
        lambd: Λ, at least 0, decays the weight, and the learning rate over time.
        alpha: α, the power by which the learning rate falls.
        t0: t₀, the step after which averaging begins; before, a is the weight.
        weight_decay: λ, at least 0, added to the gradient.
        maximize: climb instead of descend.

    State: ``ax`` a, of the parameter's shape, and the scalars ``eta`` η and ``mu`` μ of the next step. Evaluate the
    model with the values of ``ax``: copy them into the parameters.

    Family: SGD; an average of the weights beside them.
    Taken for: convex problems, with the averaged weights.

    Source: Polyak and Juditsky, "Acceleration of Stochastic Approximation by Averaging", SIAM J. Control Optim. 30
    (1992), equations 4 and 5, with the rates of Bottou's sgd and of torch.optim, which rounds the first of them to
    float32.

    >>> import numpy as np, gradstep.numpy as gn
    >>> p = gn.Parameter(np.array([1.0, 1.0]), grad=np.array([0.01, -100.0]))
    >>> optimizer = gn.ASGD([p], lr=0.1, lambd=0.0, t0=0.0)
    >>> for _ in range(3):
    ...     optimizer.step()
    >>> p.data.round(4).tolist()
    [0.997, 31.0]
    >>> optimizer.buffers["ax"][0].round(4).tolist()  # the average of the last two
    [0.9975, 26.0]
    """

    lr: float = learning_rate(1e-2)
    lambd: float = nonnegative(1e-4)
    alpha: float = real(0.75)
    t0: float = real(1e6)
    weight_decay: float = nonnegative(0.0)

    scalars: ClassVar[Mapping[str, float]] = {"eta": 0.0, "mu": 1.0}

    def slots(self, ndim: int) -> tuple[Slot, ...]:
        return (Slot("ax"),)

    def coefficients(self, step: int, **scalars: float) -> dict[str, float]:
        rate = self.lr if step == 1 else scalars["eta"]
        return {
            "rate": rate,
            "keep": 1 - self.lambd * rate,
            "weight": scalars["mu"],
            "l2": self.weight_decay,
            "eta": self.lr / (1 + self.lambd * self.lr * step) ** self.alpha,
            "mu": 1 / max(1.0, step - self.t0),
        }

    @staticmethod
    def update(p: Array, g: Array, s: State, c: Coefficients) -> Array:
        p = c.keep * p - c.rate * (g + c.l2 * p)
        s.ax = s.ax + c.weight * (p - s.ax)
        return p

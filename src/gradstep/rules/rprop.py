"""Rprop: a step size for each weight, which the signs of its gradients lengthen and shorten."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from gradstep.rules.base import Array, Coefficients, Rule, Slot, State, maximum, sign, where
from gradstep.rules.settings import learning_rate, nonnegative_pair, shrink_and_grow


@final
@dataclass(frozen=True)
class Rprop(Rule):
    r"""Rprop: only the sign of a gradient counts; the step grows while it stays, and shrinks when it turns.

    For gradients of the whole data: with small batches signs turn by chance.

    .. math::
        \Delta_t &= \begin{cases}
            \min(\eta^+\Delta_{t-1}, \Delta_{\max}) & g_t g_{t-1} > 0 \\
            \max(\eta^-\Delta_{t-1}, \Delta_{\min}), \text{ and then } g_t \leftarrow 0 & g_t g_{t-1} < 0 \\
            \Delta_{t-1} & \text{else}
        \end{cases} \\
        \theta_t &= \theta_{t-1} - \Delta_t \operatorname{sign}(g_t)

    Args:
        lr: the first step size Δ₀, at least 0; later values of it change nothing.
        etas: (η⁻, η⁺), the factors of a step after a turn, in (0, 1), and after none, greater than 1.
        step_sizes: (Δ_min, Δ_max), the least and the largest step size, at least 0.
        maximize: climb instead of descend.

    State: ``prev`` the last gradient, 0 where it had turned, and ``step_size`` Δ, each of the parameter's shape.

    Family: SGD; the sign, times a step that grows and shrinks.
    Taken for: small data in one batch.

    Source: Riedmiller and Braun, "A Direct Adaptive Method for Faster Backpropagation Learning: The RPROP Algorithm",
    IEEE ICNN 1993, equations 4 to 8, in torch.optim's form: after a turn the weight stays, where the paper takes the
    last step back.

    >>> import numpy as np, gradstep.numpy as gn
    >>> p = gn.Parameter(np.array([1.0, 1.0]), grad=np.array([0.01, -100.0]))
    >>> optimizer = gn.Rprop([p], lr=0.1)
    >>> optimizer.step()
    >>> optimizer.step()  # longer by 1.2
    >>> p.data.round(4).tolist()
    [0.78, 1.22]
    """

    lr: float = learning_rate(1e-2)
    etas: tuple[float, float] = shrink_and_grow(0.5, 1.2)
    step_sizes: tuple[float, float] = nonnegative_pair(1e-6, 50.0)

    def slots(self, ndim: int) -> tuple[Slot, ...]:
        return (Slot("prev"), Slot("step_size", signed=False, fill=self.lr))

    def coefficients(self, step: int, **scalars: float) -> dict[str, float]:
        shrink, grow = self.etas
        smallest, largest = self.step_sizes
        return {"shrink": shrink, "grow": grow, "smallest": smallest, "largest": largest}

    @staticmethod
    def update(p: Array, g: Array, s: State, c: Coefficients) -> Array:
        along = g * s.prev
        size = where(along > 0.0, c.grow * s.step_size, where(along < 0.0, c.shrink * s.step_size, s.step_size))
        s.step_size = -maximum(-maximum(size, c.smallest), -c.largest)  # the smaller of the two
        s.prev = where(along < 0.0, 0.0 * sign(g), g)
        return p - s.step_size * sign(s.prev)

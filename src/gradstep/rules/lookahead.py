"""Lookahead: every few steps, weights go back to a part of the way that they have come."""

from __future__ import annotations

from dataclasses import dataclass

from gradstep.rules.base import Coefficients, Slot, State
from gradstep.rules.modify import Modifier
from gradstep.rules.ops import Array
from gradstep.rules.settings import count, fraction


@dataclass(frozen=True)
class Lookahead(Modifier):
    r"""Lookahead: every k steps the weights go back to slow ones, which follow them by a part of the way.

    .. math::
        \phi_0 = \theta_0; \qquad \text{where } k \mid t: \quad
            \phi \leftarrow \phi + \alpha\,(\theta_t - \phi), \quad \theta_t \leftarrow \phi

    with the weights θ of the modified rule, whose state goes on.

    Args:
        lookahead_steps: k, the updates between two returns, 1 to 9,999.
        lookahead_rate: α, between 0 and 1.
        maximize: climb instead of descend.

    State: ``slow`` φ, of the parameter's shape; it stays in float32 where other state has 8 bits.

    Source: Zhang et al., "Lookahead Optimizer: k steps forward, 1 step back", arXiv:1907.08610, Algorithm 1.

    >>> import numpy as np, gradstep.numpy as gn
    >>> from gradstep import modify, rules
    >>> p = gn.Parameter(np.zeros(1), grad=np.array([-1.0]))
    >>> optimizer = gn.optimizer(modify(rules.SGD, Lookahead))([p], lr=1.0, lookahead_steps=2)
    >>> path = []
    >>> for _ in range(4):  # 2 goes back to 1, and 3 to 2
    ...     optimizer.step()
    ...     path.append(p.data.item())
    >>> path
    [1.0, 1.0, 2.0, 2.0]
    """

    lookahead_steps: int = count(5, most=9999)
    lookahead_rate: float = fraction(0.5)

    def slots(self, ndim: int) -> tuple[Slot, ...]:
        return (*super().slots(ndim), Slot("slow", exact=True))

    def coefficients(self, step: int, **scalars: float) -> dict[str, float]:
        row = super().coefficients(step, **scalars)  # type: ignore[safe-super]
        returns = step % self.lookahead_steps == 0
        return {
            **row,
            "starts": 1.0 if step == 1 else 0.0,
            "follow": self.lookahead_rate if returns else 0.0,
            "fast": 0.0 if returns else 1.0,
            "back": 1.0 if returns else 0.0,
        }

    @classmethod
    def update(cls, p: Array, g: Array, s: State, c: Coefficients) -> Array:
        slow = s.slow + c.starts * (p - s.slow)
        new = super().update(p, g, s, c)
        s.slow = slow + c.follow * (new - slow)
        return c.fast * new + c.back * s.slow

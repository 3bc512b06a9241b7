"""EMA: a moving average of the weights beside them, for evaluation."""

from __future__ import annotations

from dataclasses import dataclass

from gradstep.rules.base import Coefficients, Slot, State
from gradstep.rules.modify import Modifier
from gradstep.rules.ops import Array
from gradstep.rules.settings import fraction


@dataclass(frozen=True)
class EMA(Modifier):
    r"""EMA: an exponential moving average of the weights, which ``optimizer.eval()`` gives to the parameters.

    .. math::
        \bar\theta_1 = \theta_1, \qquad \bar\theta_t = d\,\bar\theta_{t-1} + (1-d)\,\theta_t

    The training is the same as without it. ``optimizer.train()`` gives the parameters their own weights again.

    Args:
        ema_decay: d, between 0 and 1.
        maximize: climb instead of descend.

    State: ``ema``, of the parameter's shape; it stays in float32 where other state has 8 bits, which do not hold a
    change of 1 − d.

    Source: Polyak and Juditsky, "Acceleration of Stochastic Approximation by Averaging", SIAM J. Control Optim. 30
    (1992), for the average of all; with d as ``torch.optim.swa_utils.get_ema_multi_avg_fn``, whose first average is the
    weights after the first step too.

    >>> import torch, gradstep
    >>> p = torch.nn.Parameter(torch.zeros(1))
    >>> optimizer = gradstep.optimizer(gradstep.modify(gradstep.rules.SGD, EMA))([p], lr=1.0, ema_decay=0.75)
    >>> for gradient in (-4.0, -4.0):
    ...     p.grad = torch.tensor([gradient])
    ...     optimizer.step()
    >>> optimizer.eval()
    >>> p.item()  # 4, then 0.75·4 + 0.25·8
    5.0
    """

    ema_decay: float = fraction(0.999)

    averages = True

    def slots(self, ndim: int) -> tuple[Slot, ...]:
        return (*super().slots(ndim), Slot("ema", exact=True))

    def coefficients(self, step: int, **scalars: float) -> dict[str, float]:
        row = super().coefficients(step, **scalars)  # type: ignore[safe-super]
        return {**row, "ema_rest": 1.0 if step == 1 else 1 - self.ema_decay}

    @classmethod
    def update(cls, p: Array, g: Array, s: State, c: Coefficients) -> Array:
        new = super().update(p, g, s, c)
        s.ema = s.ema + c.ema_rest * (new - s.ema)
        return new

    def averaged(self, p: Array, s: State) -> Array:
        return s.ema

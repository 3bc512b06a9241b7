"""RMS clip: a step of no more than the learning rate, in the mean over a tensor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gradstep.rules.base import Array, Coefficients, State, maximum, sqrt
from gradstep.rules.modify import Modifier
from gradstep.rules.ops import mean
from gradstep.rules.settings import at_least_one


@dataclass(frozen=True)
class RMSClip(Modifier):
    r"""RMS clip: the root mean square of a tensor's step is at most ``max_rms`` times the learning rate.

    .. math::
        \theta_t = (1-\eta\lambda)\,\theta_{t-1} - \frac{u_t}{\max(1, \operatorname{RMS}(u_t)/(\eta d))}

    with the step u of the modified rule, which contains η.

    Args:
        max_rms: d, at least 1.
        maximize: climb instead of descend.

    Source: Shazeer and Stern, "Adafactor", arXiv:1804.04235, section 6 ("update clipping"), for the step of any rule.
    StableAdamW (Wortsman et al., arXiv:2304.13013) is another form: it clips by the gradient over the root, and its
    decay too.

    >>> from gradstep import modify, rules
    >>> modify(rules.AdamW, RMSClip)(lr=0.1, max_rms=2.0).max_rms
    2.0
    """

    max_rms: float = at_least_one(1.0)

    sees = "means"
    needs: ClassVar[tuple[str, ...]] = ("lr",)

    def coefficients(self, step: int, **scalars: float) -> dict[str, float]:
        row = super().coefficients(step, **scalars)  # type: ignore[safe-super]
        # The least normal float32: with a smaller rate the step is 0, and so must not be the bound, which divides.
        return {**row, "bound": max(self.lr * self.max_rms, 2.0**-126)}  # type: ignore[attr-defined]

    @classmethod
    def step(cls, p: Array, g: Array, s: State, c: Coefficients) -> Array:
        u = super().step(p, g, s, c)
        return u / maximum(sqrt(mean(u * u)) / c.bound, 1.0)

"""Cautious weight decay: only the weights that the step makes smaller decay."""

from __future__ import annotations

from dataclasses import dataclass

from gradstep.rules.base import Array, Coefficients, sign, where
from gradstep.rules.modify import Modifier


@dataclass(frozen=True)
class CautiousDecay(Modifier):
    r"""Cautious decay: a weight that the step moves away from 0 does not decay.

    .. math::
        \theta_t = \theta_{t-1} - u_t - \eta\lambda\, \mathbb 1(u_t \circ \theta_{t-1} \ge 0) \circ \theta_{t-1}

    with the step u of the modified rule, which must decay the weight itself (AdamW, Lion, Muon, ...).

    Args:
        maximize: climb instead of descend.

    Raises:
        ValueError: the decay is in the gradient or in the step.

    Source: Chen et al., "Cautious Weight Decay", arXiv:2510.12402, Algorithm 1.

    >>> from gradstep import modify, rules
    >>> modify(rules.SGD, CautiousDecay)(lr=0.1, weight_decay=0.1)
    Traceback (most recent call last):
    ValueError: CautiousDecaySGD has no decay of the weight itself, but in the gradient or the step: modify AdamW, say
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.decays or self.coefficients(1, **self.scalars).get("l2"):
            raise ValueError(
                f"{type(self).__name__} has no decay of the weight itself, but in the gradient or the step: modify "
                "AdamW, say"
            )

    @classmethod
    def decay(cls, p: Array, step: Array, c: Coefficients) -> Array:
        return where(sign(step) * sign(p) >= 0.0, super().decay(p, step, c), p)

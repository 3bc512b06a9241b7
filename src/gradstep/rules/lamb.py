"""LAMB, and the trust ratio: the step of each tensor is as long, relative to the tensor, as the learning rate says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from gradstep.rules.adam import AdamRule
from gradstep.rules.base import Array, Coefficients, State, sqrt, where
from gradstep.rules.modify import Modifier
from gradstep.rules.ops import mean
from gradstep.rules.settings import epsilon, nonnegative


@dataclass(frozen=True)
class TrustRatio(Modifier):
    r"""Trust ratio: the step with its decay is scaled to the length of its tensor times the learning rate.

    .. math::
        \theta_t = \theta_{t-1} - \eta\,\frac{\lVert\theta_{t-1}\rVert}{\lVert r_t\rVert}\, r_t, \qquad
        r_t = u_t + \eta\lambda\theta_{t-1}

    with the step u of the modified rule. If the weights or r are all 0, the step is r.

    Args:
        maximize: climb instead of descend.

    Source: You et al., "Large Batch Optimization for Deep Learning: Training BERT in 76 minutes", arXiv:1904.00962,
    Algorithm 2 with φ(z) = z, for the step of any rule. Some codes bound the length of the tensor by 10.

    >>> from gradstep import modify, rules
    >>> modify(rules.Lion, TrustRatio).__name__
    'TrustRatioLion'
    """

    decays = False  # the step contains the decay
    sees = "means"
    needs: ClassVar[tuple[str, ...]] = ("lr",)

    def coefficients(self, step: int, **scalars: float) -> dict[str, float]:
        row = super().coefficients(step, **scalars)  # type: ignore[safe-super]
        # A rule whose step contains its decay has nothing to add.
        shrink = 1 - row.get("keep", 1.0) if super().decays else 0.0
        return {**row, "shrink": shrink, "rate": self.lr}  # type: ignore[attr-defined]

    @classmethod
    def step(cls, p: Array, g: Array, s: State, c: Coefficients) -> Array:
        r = super().step(p, g, s, c) + c.shrink * p
        size, length = sqrt(mean(p * p)), sqrt(mean(r * r))
        both = size * length > 0.0
        return r * where(both, c.rate * size / where(both, length, 1.0), 1.0)


@final
@dataclass(frozen=True)
class LAMB(TrustRatio, AdamRule):
    r"""LAMB: AdamW whose step is, for each tensor, as long as the weights times the learning rate.

    .. math::
        r_t &= \frac{m_t/(1-\beta_1^t)}{\sqrt{v_t/(1-\beta_2^t)}+\epsilon} + \lambda\theta_{t-1} \\
        \theta_t &= \theta_{t-1} - \eta\,\frac{\lVert\theta_{t-1}\rVert}{\lVert r_t\rVert}\, r_t

    with the averages m and v of :class:`Adam`, and norms over the whole tensor.

    Args:
        lr: learning rate η, at least 0; the length of a step relative to the tensor.
        betas: averaging coefficients (β₁, β₂) of the gradient and of its square, each in [0, 1).
        eps: ε, added *outside* the root, at least 0.
        weight_decay: λ, at least 0.
        amsgrad: divide by the largest v so far; adds a slot.
        bias_correction: divide both averages by the weight of the gradients in them, as in :class:`Adam`.
        maximize: climb instead of descend.

    State: ``exp_avg`` m and ``exp_avg_sq`` v (and ``max_exp_avg_sq``), each of the parameter's shape.

    Family: AdamW; a step as long as its tensor.
    Taken for: very large batches.

    Source: You et al., "Large Batch Optimization for Deep Learning: Training BERT in 76 minutes", arXiv:1904.00962,
    Algorithm 2 with φ(z) = z; where a norm is 0, its ratio is 1. Some codes bound the length of the tensor by 10, clip
    the gradients of all tensors first, or leave the averages uncorrected as version 3 of the paper does
    (``bias_correction=False``).

    >>> import numpy as np, gradstep.numpy as gn
    >>> p = gn.Parameter(np.array([3.0, 4.0]), grad=np.array([0.01, -100.0]))
    >>> gn.LAMB([p], lr=0.1, weight_decay=0.0).step()
    >>> p.data.round(4).tolist()  # both by a tenth of 5, over the root of 2
    [2.6465, 4.3536]
    """

    eps: float = epsilon(1e-6)
    weight_decay: float = nonnegative(1e-2)

    decoupled = True

"""AdamW: Adam with decoupled weight decay."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, final

from gradstep.rules.adam import AdamRule
from gradstep.rules.settings import nonnegative


@final
@dataclass(frozen=True)
class AdamW(AdamRule):
    r"""AdamW: Adam whose weight decay acts on the weight itself, not in the gradient.

    .. math::
        m_t &= \beta_1 m_{t-1} + (1-\beta_1) g_t \\
        v_t &= \beta_2 v_{t-1} + (1-\beta_2) g_t^2 \\
        \theta_t &= (1-\eta\lambda)\,\theta_{t-1}
                    - \eta\,\frac{m_t/(1-\beta_1^t)}{\sqrt{v_t/(1-\beta_2^t)}+\epsilon}

    Decay in the gradient would be divided by √v, so that weights with large gradients decay least; here every
    weight shrinks by the same factor 1 − ηλ a step, whatever its gradient.

    Args:
        lr: learning rate η, at least 0; the size of a step in units of the parameter.
        betas: averaging coefficients (β₁, β₂) of the gradient and of its square, each in [0, 1).
        eps: ε, added *outside* the root, at least 0.
        weight_decay: λ, at least 0. As in torch.optim it is scaled by the learning rate.
        amsgrad: divide by the largest v so far (Reddi et al., arXiv:1904.09237); adds a slot.
        bias_correction: divide both averages by the weight of the gradients in them, as in :class:`Adam`.
        maximize: climb instead of descend.

    State: ``exp_avg`` m and ``exp_avg_sq`` v (and ``max_exp_avg_sq``), each of the parameter's shape.

    Family: Adam; decay on the weight itself.
    Taken for: transformers, fine-tuning, most else.

    Source: Loshchilov and Hutter, "Decoupled Weight Decay Regularization", arXiv:1711.05101, Algorithm 2, with the
    schedule multiplier η_t folded into ``lr``. Decay acts on the old weight ("before"), as in the paper and torch.

    The first step by hand (weight 0.5, gradient 0.02: the corrected moments are 0.02 and 0.0004, their ratio 1):

    >>> from gradstep.rules.base import State
    >>> from types import SimpleNamespace
    >>> c = SimpleNamespace(**AdamW(lr=1e-4, weight_decay=1e-3).coefficients(step=1))
    >>> round(AdamW.update(0.5, 0.02, State(exp_avg=0.0, exp_avg_sq=0.0), c), 8)
    0.49989995
    """

    weight_decay: float = nonnegative(1e-2)

    fixed: ClassVar[Mapping[str, Any]] = {"decoupled_weight_decay": True}

    decoupled = True

"""StableAdamW: AdamW with a smaller step for a tensor whose second moment is out of date."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from gradstep.rules.adam import AdamRule
from gradstep.rules.base import Array, Coefficients, State, maximum, sqrt
from gradstep.rules.ops import mean
from gradstep.rules.settings import betas, epsilon, nonnegative


@final
@dataclass(frozen=True)
class StableAdamW(AdamRule):
    r"""StableAdamW: AdamW with a shorter step for a tensor whose gradients are larger than v knows; no clipping needed.

    .. math::
        \operatorname{RMS}_t &= \sqrt{\operatorname{mean}\bigl(g_t^2 / \max(\hat v_t, \epsilon^2)\bigr)}, \qquad
            \eta_t = \frac{\eta}{\max(1, \operatorname{RMS}_t)} \\
        \theta_t &= (1-\eta_t\lambda)\,\theta_{t-1} - \eta_t\,\frac{\hat m_t}{\sqrt{\hat v_t}+\epsilon}

    with the corrected averages m̂ and v̂ of :class:`Adam`, and the mean over the whole tensor.

    Args:
        lr: learning rate η, at least 0.
        betas: averaging coefficients (β₁, β₂) of the gradient and of its square, each in [0, 1).
        eps: ε, added *outside* the root, at least 0; and the least root in the mean.
        weight_decay: λ, at least 0, on the weight itself.
        amsgrad: divide the step by the largest v so far; adds a slot.
        bias_correction: divide both averages by the weight of the gradients in them, as in :class:`Adam`.
        maximize: climb instead of descend.

    State: ``exp_avg`` m and ``exp_avg_sq`` v (and ``max_exp_avg_sq``), each of the parameter's shape.

    Family: AdamW; a shorter step where g is larger than v knows.
    Taken for: large models whose loss has spikes.

    Source: Wortsman et al., "Stable and low-precision training for large-scale vision-language models",
    arXiv:2304.13013, Algorithm 2. The paper's β̂ₜ keep averages that are corrected already; here the state has Adam's
    averages, and the same numbers follow.

    >>> import numpy as np, gradstep.numpy as gn
    >>> p = gn.Parameter(np.ones(1), grad=np.ones(1))
    >>> optimizer = gn.StableAdamW([p], lr=0.1, weight_decay=0.0)
    >>> optimizer.step()
    >>> p.grad = np.array([100.0])  # a spike: AdamW would move by 0.075, this by 0.053
    >>> optimizer.step()
    >>> p.data.round(3).tolist()
    [0.847]
    """

    betas: tuple[float, float] = betas(0.9, 0.99)
    eps: float = epsilon(1e-6)
    weight_decay: float = nonnegative(1e-2)

    decoupled = True
    decays = False  # the step contains the decay, which is shortened too
    sees = "means"

    def coefficients(self, step: int, **scalars: float) -> dict[str, float]:
        return {**super().coefficients(step, **scalars), "decay": self.lr * self.weight_decay}

    @staticmethod
    def step(p: Array, g: Array, s: State, c: Coefficients) -> Array:
        u = AdamRule.step(p, g, s, c) + c.decay * p
        surprise = g / maximum(sqrt(s.exp_avg_sq) * c.unbias2, c.eps)
        return u / maximum(sqrt(mean(surprise * surprise)), 1.0)

"""MARS, and its correction of the gradient: what the gradient has changed since the last step counts more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from gradstep.rules.adam import AdamRule
from gradstep.rules.base import Array, Coefficients, Slot, State, maximum, sqrt
from gradstep.rules.modify import Modifier
from gradstep.rules.ops import elements, mean
from gradstep.rules.settings import betas, learning_rate, nonnegative


@dataclass(frozen=True)
class VarianceReduction(Modifier):
    r"""Variance reduction: the rule receives the gradient plus a part of its change, at most 1 long in each tensor.

    .. math::
        c_t = g_t + \gamma\,\frac{\beta_1}{1-\beta_1}\,(g_t - g_{t-1}), \qquad
        \tilde c_t = \frac{c_t}{\max(1, \lVert c_t\rVert)}

    At the first step nothing is added.

    Args:
        gamma: γ, at least 0.
        maximize: climb instead of descend.

    State: ``last_grad``, of the parameter's shape.

    Source: Yuan et al., "MARS: Unleashing the Power of Variance Reduction for Training Large Models",
    arXiv:2411.10438, Algorithm 1 in the approximate form: the last gradient stands for the one of this batch at the
    last weights, which would need a second backward pass.

    >>> from gradstep import modify, rules
    >>> [slot.name for slot in modify(rules.Lion, VarianceReduction)().slots(1)]
    ['exp_avg', 'last_grad']
    """

    gamma: float = nonnegative(0.025)

    sees = "means"
    needs: ClassVar[tuple[str, ...]] = ("betas",)

    def slots(self, ndim: int) -> tuple[Slot, ...]:
        return (*super().slots(ndim), Slot("last_grad"))

    def coefficients(self, step: int, **scalars: float) -> dict[str, float]:
        row = super().coefficients(step, **scalars)  # type: ignore[safe-super]
        beta1 = self.betas[0]  # type: ignore[attr-defined]
        return {**row, "correction": 0.0 if step == 1 else self.gamma * beta1 / (1 - beta1)}

    @classmethod
    def step(cls, p: Array, g: Array, s: State, c: Coefficients) -> Array:
        corrected = g + c.correction * (g - s.last_grad)
        s.last_grad = g
        length = sqrt(mean(corrected * corrected) * elements(g))
        return super().step(p, corrected / maximum(length, 1.0), s, c)


@final
@dataclass(frozen=True)
class MARS(VarianceReduction, AdamRule):
    r"""MARS-AdamW: AdamW along the gradient plus a part of its change since the last step.

    .. math::
        c_t &= g_t + \gamma\,\frac{\beta_1}{1-\beta_1}\,(g_t - g_{t-1}), \qquad
            \tilde c_t = \frac{c_t}{\max(1, \lVert c_t\rVert)} \\
        m_t &= \beta_1 m_{t-1} + (1-\beta_1)\tilde c_t, \qquad v_t = \beta_2 v_{t-1} + (1-\beta_2)\tilde c_t^2 \\
        \theta_t &= (1-\eta\lambda)\,\theta_{t-1} - \eta\,\frac{m_t/(1-\beta_1^t)}{\sqrt{v_t/(1-\beta_2^t)}+\epsilon}

    Args:
        lr: learning rate η, at least 0.
        betas: averaging coefficients (β₁, β₂) of the corrected gradient and of its square, each in [0, 1).
        eps: ε, added *outside* the root, at least 0.
        weight_decay: λ, at least 0, on the weight itself.
        amsgrad: divide by the largest v so far; adds a slot.
        bias_correction: divide both averages by the weight of the gradients in them, as in :class:`Adam`.
        gamma: γ, at least 0.
        maximize: climb instead of descend.

    State: ``exp_avg`` m, ``exp_avg_sq`` v and ``last_grad`` (and ``max_exp_avg_sq``), each of the parameter's shape.

    Family: AdamW; the gradient's change counts more.
    Taken for: language models, as AdamW.

    Source: Yuan et al., "MARS: Unleashing the Power of Variance Reduction for Training Large Models",
    arXiv:2411.10438, Algorithm 2 in the approximate form (see ``gradstep.rules.VarianceReduction``). It corrects every
    parameter; give embeddings, norms and biases a group with ``"rule": "AdamW"`` if they should not be.

    >>> import numpy as np, gradstep.numpy as gn
    >>> p = gn.Parameter(np.ones(2), grad=np.array([0.1, -0.1]))
    >>> optimizer = gn.MARS([p], lr=0.1, betas=(0.5, 0.5), gamma=1.0)
    >>> optimizer.step()
    >>> p.grad = np.array([0.1, 0.0])  # the second one has changed by 0.1, and counts as 0.1
    >>> optimizer.step()
    >>> p.data.round(3).tolist()
    [0.8, 1.067]
    """

    lr: float = learning_rate(3e-3)
    betas: tuple[float, float] = betas(0.95, 0.99)

    decoupled = True

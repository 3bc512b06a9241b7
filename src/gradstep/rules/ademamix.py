"""AdEMAMix: AdamW with a second, much slower average of the gradient."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

from gradstep.rules.base import Array, Coefficients, Slot, State, StepRule, sqrt
from gradstep.rules.settings import betas, duration, epsilon, learning_rate, nonnegative


@final
@dataclass(frozen=True)
class AdEMAMix(StepRule):
    r"""AdEMAMix: AdamW that also remembers gradients of ten thousand steps, by a slow average beside the fast one.

    .. math::
        m_1 &\leftarrow \beta_1 m_1 + (1-\beta_1) g_t, \qquad
            m_2 \leftarrow \beta_3(t)\, m_2 + (1-\beta_3(t)) g_t \\
        v &\leftarrow \beta_2 v + (1-\beta_2) g_t^2 \\
        \theta_t &= (1-\eta\lambda)\,\theta_{t-1} - \eta\,
            \frac{m_1/(1-\beta_1^t) + \alpha(t)\, m_2}{\sqrt{v/(1-\beta_2^t)}+\epsilon} \\
        \alpha(t) &= \min(t\alpha/T_\alpha,\, \alpha), \qquad
            \beta_3(t) = \min\Bigl(\exp\frac{\ln\beta_1 \ln\beta_3}
            {(1-t/T_{\beta_3})\ln\beta_3 + (t/T_{\beta_3})\ln\beta_1},\; \beta_3\Bigr)

    Args:
        lr: learning rate η, at least 0.
        betas: averaging coefficients (β₁, β₂, β₃) of the gradient, of its square and of the slow average, each in
            [0, 1).
        alpha: α, the weight of the slow average, at least 0; 4 to 10 in the paper.
        t_alpha: T_α, the updates in which α(t) rises from 0; None takes α from the first.
        t_beta3: T_β₃, the updates in which the slow average's memory grows in a line from β₁'s to β₃'s; None takes β₃
            from the first. The paper sets both to the length of the training, against early divergence.
        eps: ε, added *outside* the root, at least 0.
        weight_decay: λ, at least 0, on the weight itself.
        maximize: climb instead of descend.

    State: ``exp_avg`` m₁, ``exp_avg_slow`` m₂ and ``exp_avg_sq`` v, each of the parameter's shape.

    The slow average is not corrected for its start at 0, as in the paper.

    Family: AdamW; a slow average beside the fast one.
    Taken for: long trainings of language models.

    Source: Pagliardini, Ablin and Grangier, "The AdEMAMix Optimizer: Better, Faster, Older", arXiv:2409.03137,
    Algorithm 1 and section 3. Names and defaults are those of bitsandbytes and Hugging Face; the authors' code has
    α = 2 and no decay by default, and adds 1e-8 to both β inside the logarithms.

    >>> rule = AdEMAMix(t_alpha=10, t_beta3=10)
    >>> [round(rule.coefficients(step)["beta3"], 4) for step in (1, 5, 10)]
    [0.999, 0.9998, 0.9999]
    >>> [rule.coefficients(step)["alpha"] for step in (1, 5, 10)]
    [0.5, 2.5, 5.0]
    """

    lr: float = learning_rate(1e-3)
    betas: tuple[float, float, float] = betas(0.9, 0.999, 0.9999)
    alpha: float = nonnegative(5.0)
    t_alpha: int | None = duration()
    t_beta3: int | None = duration()
    eps: float = epsilon(1e-8)
    weight_decay: float = nonnegative(1e-2)

    def slots(self, ndim: int) -> tuple[Slot, ...]:
        return (Slot("exp_avg"), Slot("exp_avg_slow"), Slot("exp_avg_sq", signed=False))

    def coefficients(self, step: int, **scalars: float) -> dict[str, float]:
        beta1, beta2, beta3 = self.betas
        alpha = self.alpha
        if self.t_alpha is not None and step < self.t_alpha:
            alpha = alpha * step / self.t_alpha
        if self.t_beta3 is not None and step < self.t_beta3 and beta1 < beta3:
            part = step / self.t_beta3
            # The number of steps in which an average forgets all but 1/e, between those of β₁ and β₃.
            memory = -part / math.log(beta3)
            if beta1 > 0:
                memory = memory - (1 - part) / math.log(beta1)
            beta3 = math.exp(-1 / memory)
        return {
            "beta1": beta1,
            "rest1": 1 - beta1,
            "beta2": beta2,
            "rest2": 1 - beta2,
            "beta3": beta3,
            "rest3": 1 - beta3,
            "unbias1": 1 / (1 - beta1**step),
            "unbias2": (1 - beta2**step) ** -0.5,
            "alpha": alpha,
            "lr": self.lr,
            "eps": self.eps,
            "keep": 1 - self.lr * self.weight_decay,
        }

    @staticmethod
    def step(p: Array, g: Array, s: State, c: Coefficients) -> Array:
        s.exp_avg = c.beta1 * s.exp_avg + c.rest1 * g
        s.exp_avg_slow = c.beta3 * s.exp_avg_slow + c.rest3 * g
        s.exp_avg_sq = c.beta2 * s.exp_avg_sq + c.rest2 * (g * g)
        return c.lr * (c.unbias1 * s.exp_avg + c.alpha * s.exp_avg_slow) / (sqrt(s.exp_avg_sq) * c.unbias2 + c.eps)

"""Adam, and its common base with AdamW."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, final

from gradstep.rules.base import Array, Coefficients, Slot, State, StepRule, maximum, sqrt
from gradstep.rules.settings import betas, epsilon, flag, learning_rate, nonnegative


@dataclass(frozen=True)
class AdamRule(StepRule):
    """Algorithm 2 of Loshchilov and Hutter without the decay in the gradient, which only Adam has."""

    lr: float = learning_rate(1e-3)
    betas: tuple[float, float] = betas(0.9, 0.999)
    eps: float = epsilon(1e-8)
    weight_decay: float = nonnegative(0.0)
    amsgrad: bool = flag()
    bias_correction: bool = flag(True, kw_only=True)

    beyond_torch: ClassVar[frozenset[str]] = frozenset({"bias_correction"})

    @property
    @abstractmethod
    def decoupled(self) -> bool:
        """Whether decay acts on the weight (AdamW) or in the gradient (Adam)."""

    def slots(self, ndim: int) -> tuple[Slot, ...]:
        largest = (Slot("max_exp_avg_sq", signed=False),) if self.amsgrad else ()
        return (Slot("exp_avg"), Slot("exp_avg_sq", signed=False), *largest)

    def coefficients(self, step: int, **scalars: float) -> dict[str, float]:
        beta1, beta2 = self.betas
        weight1, weight2 = (1 - beta1**step, 1 - beta2**step) if self.bias_correction else (1.0, 1.0)
        return {
            "beta1": beta1,
            "rest1": 1 - beta1,
            "beta2": beta2,
            "rest2": 1 - beta2,
            "step_size": self.lr / weight1,
            "unbias2": weight2**-0.5,
            "eps": self.eps,
            "l2": 0.0 if self.decoupled else self.weight_decay,
            "keep": 1 - self.lr * self.weight_decay if self.decoupled else 1.0,
        }

    @staticmethod
    def step(p: Array, g: Array, s: State, c: Coefficients) -> Array:
        s.exp_avg = c.beta1 * s.exp_avg + c.rest1 * g
        s.exp_avg_sq = c.beta2 * s.exp_avg_sq + c.rest2 * (g * g)
        v = s.exp_avg_sq
        if "max_exp_avg_sq" in s:
            v = s.max_exp_avg_sq = maximum(s.max_exp_avg_sq, v)
        return c.step_size * s.exp_avg / (sqrt(v) * c.unbias2 + c.eps)


@final
@dataclass(frozen=True)
class Adam(AdamRule):
    r"""Adam: momentum divided by the root of the average squared gradient, both corrected for their start at 0.

    .. math::
        g_t &= \nabla f(\theta_{t-1}) + \lambda\theta_{t-1} \\
        m_t &= \beta_1 m_{t-1} + (1-\beta_1) g_t \\
        v_t &= \beta_2 v_{t-1} + (1-\beta_2) g_t^2 \\
        \theta_t &= \theta_{t-1} - \eta\,\frac{m_t/(1-\beta_1^t)}{\sqrt{v_t/(1-\beta_2^t)}+\epsilon}

    Args:
        lr: learning rate η, at least 0; the size of a step in units of the parameter.
        betas: averaging coefficients (β₁, β₂) of the gradient and of its square, each in [0, 1).
        eps: ε, added *outside* the root, at least 0.
        weight_decay: λ, at least 0; added to the gradient as L2, so it is divided by √v too. For decay that acts
            on the weight itself use :class:`AdamW`, or ``decoupled_weight_decay=True``.
        amsgrad: divide by the largest v so far (Reddi et al., arXiv:1904.09237); adds a slot.
        decoupled_weight_decay: decay the weight as AdamW does.
        bias_correction: divide the averages by the weight of the gradients that they hold so far, 1 − βᵗ; an average
            begins at 0. Without it early steps are too *long*, since √v lacks more than m does: with the default betas
            3.16 times at the first step, 6.57 times at the twelfth. torch has no such setting; its own optimizers
            ignore it in a loaded state.
        maximize: climb instead of descend.

    State: ``exp_avg`` m and ``exp_avg_sq`` v (and ``max_exp_avg_sq``), each of the parameter's shape.

    Family: RMSprop; momentum, and both averages corrected.
    Taken for: quick experiments without decay.

    Source: Kingma and Ba, "Adam: A Method for Stochastic Optimization", arXiv:1412.6980, Algorithm 1.
    As in torch.optim, AMSGrad takes the maximum of the *uncorrected* v.

    >>> Adam(lr=0.1).coefficients(step=1)["step_size"]
    1.0000000000000002
    >>> Adam(lr=0.1, bias_correction=False).coefficients(step=1)["step_size"]
    0.1
    """

    decoupled_weight_decay: bool = flag(kw_only=True)

    @property
    def decoupled(self) -> bool:
        return self.decoupled_weight_decay

    @staticmethod
    def step(p: Array, g: Array, s: State, c: Coefficients) -> Array:
        return AdamRule.step(p, g + c.l2 * p, s, c)

"""Schedule-free AdamW, SGD and RAdam: an average of the weights in place of a schedule of the learning rate."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

from gradstep.rules.base import Array, Coefficients, Slot, State, StepRule, sqrt
from gradstep.rules.settings import betas, epsilon, flag, learning_rate, nonnegative, open_fraction


@dataclass(frozen=True)
class ScheduleFreeRule(StepRule):
    """Algorithm 1 of Defazio et al. for any direction of a step, with the slot ``ahead``, z − y, in place of z."""

    lr: float = learning_rate(2.5e-3)
    weight_decay: float = nonnegative(0.0, kw_only=True)
    r: float = nonnegative(0.0, kw_only=True)
    weight_lr_power: float = nonnegative(2.0, kw_only=True)

    decays = False
    averages = True
    scalars: ClassVar[Mapping[str, float]] = dict.fromkeys(
        ("weight_sum", "weight_sum_rest", "lr_max", "lr_max_rest"), 0.0
    )

    @property
    @abstractmethod
    def beta(self) -> float:
        """The part β of the average x in the weights y that gradients are taken at."""

    @staticmethod
    @abstractmethod
    def _direction(g: Array, s: State, c: Coefficients) -> Array:
        """Assign the other slots to ``s``, and return the step for a learning rate of 1 and without decay."""

    def slots(self, ndim: int) -> tuple[Slot, ...]:
        return (Slot("ahead"),)

    @abstractmethod
    def _rate(self, step: int) -> float:
        """Return the learning rate γ_t of a step."""

    def coefficients(self, step: int, **scalars: float) -> dict[str, float]:
        rate = self._rate(step)
        largest = max(rate, scalars["lr_max"] + scalars["lr_max_rest"])
        weight = step**self.r * largest**self.weight_lr_power
        total = scalars["weight_sum"] + scalars["weight_sum_rest"] + weight
        share = weight / (total + 1e-300)  # 0 while every rate was 0
        return {
            "rate": rate,
            "decay": self.weight_decay,
            "beta": self.beta,
            "share": share,
            "stay": 1 - share,
            "along": 1 - self.beta * (1 - share),
            **_split("weight_sum", total),
            **_split("lr_max", largest),
        }

    @classmethod
    def step(cls, p: Array, g: Array, s: State, c: Coefficients) -> Array:
        ahead, u = s.ahead, c.rate * (cls._direction(g, s, c) + c.decay * p)
        s.ahead = c.stay * (ahead - c.beta * u)
        return c.along * u - c.share * ahead

    def averaged(self, p: Array, s: State) -> Array:
        return p + (1 - 1 / self.beta) * s.ahead


def _warm_up(lr: float, step: int, warmup_steps: float) -> float:
    return lr * min(1.0, step / max(warmup_steps, 1.0))


def _split(name: str, x: float) -> dict[str, float]:
    """Return two numbers of state, which is float32: the leading 24 bits (by Veltkamp's splitting), and the rest."""
    shifted = x * (2.0**29 + 1)
    leading = shifted - (shifted - x)
    return {name: leading, f"{name}_rest": x - leading}


@final
@dataclass(frozen=True)
class ScheduleFreeSGD(ScheduleFreeRule):
    r"""Schedule-free SGD: SGD whose weights are averaged, without a schedule that must know when training ends.

    .. math::
        z_{t+1} &= z_t - \gamma_t\,(\nabla f(y_t) + \lambda y_t) \\
        x_{t+1} &= (1-c_{t+1})\,x_t + c_{t+1} z_{t+1}, \qquad
            c_{t+1} = \frac{w_t}{\sum_{i\le t} w_i}, \quad w_t = t^r \max_{i\le t}\gamma_i^p \\
        y_{t+1} &= (1-\beta)\,z_{t+1} + \beta x_{t+1}

    The parameters are y; ``optimizer.eval()`` makes them the average x, and ``optimizer.train()`` y again. Evaluate and
    publish the model between the two; a step in between raises an error.

    Args:
        lr: γ, at least 0; larger than SGD's, and constant. γ_t rises to it in the first ``warmup_steps`` updates.
        momentum: β, between 0 and 1, neither included.
        weight_decay: λ, at least 0, on y.
        warmup_steps: the updates of a linear warmup, at least 0.
        r, weight_lr_power: r and p, at least 0: how much more later gradients, and those of a larger γ, count.
        maximize: climb instead of descend.

    State: ``ahead`` z − y, of the parameter's shape; the numbers Σw, in ``weight_sum`` and ``weight_sum_rest``,
    and the largest γ, in ``lr_max`` and ``lr_max_rest``.

    Family: SGD; the weights are averaged, and gradients taken beside the average.
    Taken for: training without a planned end.

    Source: Defazio et al., "The Road Less Scheduled", arXiv:2405.15682, Algorithm 1 with SGD's step, in the form of
    the authors' package, which keeps y and z. With a = z − y it is, for the step u of z, y ← y + c a − (1 − β(1 − c)) u
    and a ← (1 − c)(a − β u). Deviation: updates are counted for each parameter, in the package for each
    group.

    >>> import numpy as np, gradstep.numpy as gn
    >>> p = gn.Parameter(np.array([1.0]), grad=np.array([1.0]))
    >>> optimizer = gn.ScheduleFreeSGD([p], lr=0.1, momentum=0.5)
    >>> for _ in range(2):  # z: 0.9, 0.8; x: 0.9, 0.85; y lies between
    ...     optimizer.step()
    >>> p.data.round(4).tolist()
    [0.825]
    """

    lr: float = learning_rate(1.0)
    momentum: float = open_fraction(0.9)
    warmup_steps: float = nonnegative(0.0, kw_only=True)

    @property
    def beta(self) -> float:
        return self.momentum

    def _rate(self, step: int) -> float:
        return _warm_up(self.lr, step, self.warmup_steps)

    @staticmethod
    def _direction(g: Array, s: State, c: Coefficients) -> Array:
        return g


@dataclass(frozen=True)
class _AdaptiveRule(ScheduleFreeRule):
    """The second moment of schedule-free AdamW and RAdam."""

    betas: tuple[float, float] = betas(0.9, 0.999, first_above_0=True)
    eps: float = epsilon(1e-8)

    @property
    def beta(self) -> float:
        return self.betas[0]

    def slots(self, ndim: int) -> tuple[Slot, ...]:
        return (*super().slots(ndim), Slot("exp_avg_sq", signed=False))

    def coefficients(self, step: int, **scalars: float) -> dict[str, float]:
        row = super().coefficients(step, **scalars)
        beta2 = self.betas[1]
        return {**row, "beta2": beta2, "rest2": 1 - beta2, "unbias2": (1 - beta2**step) ** -0.5, "eps": self.eps}


@final
@dataclass(frozen=True)
class ScheduleFreeAdamW(_AdaptiveRule):
    r"""Schedule-free AdamW: AdamW whose weights are averaged, without a schedule that must know when training ends.

    .. math::
        v_t &= \beta_2 v_{t-1} + (1-\beta_2)\,g_t^2, \qquad g_t = \nabla f(y_t) \\
        z_{t+1} &= z_t - \gamma_t\Bigl(\frac{g_t}{\sqrt{v_t/(1-\beta_2^t)}+\epsilon} + \lambda y_t\Bigr) \\
        x_{t+1} &= (1-c_{t+1})\,x_t + c_{t+1} z_{t+1}, \qquad
            c_{t+1} = \frac{w_t}{\sum_{i\le t} w_i}, \quad w_t = t^r \max_{i\le t}\gamma_i^p \\
        y_{t+1} &= (1-\beta_1)\,z_{t+1} + \beta_1 x_{t+1}

    The parameters are y; ``optimizer.eval()`` makes them the average x, and ``optimizer.train()`` y again. Evaluate and
    publish the model between the two; a step in between raises an error.

    Args:
        lr: γ, at least 0; constant. γ_t rises to it in the first ``warmup_steps`` updates.
        betas: β₁ in (0, 1), the part of x in y, which is the momentum; β₂ in [0, 1), of the average square.
        eps: ε, added *outside* the root, at least 0.
        weight_decay: λ, at least 0, on y.
        warmup_steps: the updates of a linear warmup, at least 0.
        r, weight_lr_power: r and p, at least 0: how much more later gradients, and those of a larger γ, count.
        maximize: climb instead of descend.

    State: ``ahead`` z − y and ``exp_avg_sq`` v, each of the parameter's shape; the numbers Σw, in ``weight_sum``
    and ``weight_sum_rest``, and the largest γ, in ``lr_max`` and ``lr_max_rest``.

    Family: AdamW; the weights are averaged in place of the gradient, and of a schedule.
    Taken for: training without a planned end.

    Source: Defazio et al., "The Road Less Scheduled", arXiv:2405.15682, Algorithm 1. As the authors' package, and
    unlike the algorithm, it corrects v, leaves γ_t in w_t uncorrected, and takes its largest so far. Deviation from
    the package: see :class:`ScheduleFreeSGD`.

    >>> import torch, gradstep
    >>> p = torch.nn.Parameter(torch.ones(1))
    >>> optimizer = gradstep.ScheduleFreeAdamW([p], lr=0.1, betas=(0.5, 0.999))
    >>> for _ in range(2):  # z: 0.9, 0.8; x: 0.9, 0.85; y lies between
    ...     p.grad = torch.ones(1)
    ...     optimizer.step()
    >>> optimizer.eval()
    >>> x = p.item()
    >>> optimizer.train()
    >>> round(x, 4), round(p.item(), 4)
    (0.85, 0.825)
    """

    warmup_steps: float = nonnegative(0.0, kw_only=True)

    def _rate(self, step: int) -> float:
        return _warm_up(self.lr, step, self.warmup_steps)

    @staticmethod
    def _direction(g: Array, s: State, c: Coefficients) -> Array:
        s.exp_avg_sq = c.beta2 * s.exp_avg_sq + c.rest2 * (g * g)
        return g / (sqrt(s.exp_avg_sq) * c.unbias2 + c.eps)


@final
@dataclass(frozen=True)
class ScheduleFreeRAdam(_AdaptiveRule):
    r"""Schedule-free RAdam: RAdam's rates in place of a warmup, and averaged weights in place of a schedule.

    .. math::
        \rho_\infty &= \frac{2}{1-\beta_2} - 1, \qquad
            \rho_t = \rho_\infty - \frac{2t\beta_2^t}{1-\beta_2^t} \\
        \gamma_t &= \gamma\sqrt{\frac{(\rho_t-4)(\rho_t-2)\rho_\infty}{(\rho_\infty-4)(\rho_\infty-2)\rho_t}}
            \ \text{if } \rho_t > 4, \text{ else } 0

    and otherwise :class:`ScheduleFreeAdamW`.

    Args:
        lr: γ, at least 0; constant.
        betas: β₁ in (0, 1), the part of x in y, which is the momentum; β₂ in [0, 1), of the average square.
        eps: ε, added *outside* the root, at least 0.
        weight_decay: λ, at least 0, on y.
        r, weight_lr_power: r and p, at least 0: how much more later gradients, and those of a larger γ, count.
        silent_sgd_phase: move nothing while ρ_t ≤ 4; False moves along the gradient, with the rate γ.
        maximize: climb instead of descend.

    State: as of :class:`ScheduleFreeAdamW`.

    Family: RAdam; the weights are averaged in place of the gradient, and of a schedule.
    Taken for: training without a planned end, without a warmup.

    Source: the authors' package of Defazio et al., arXiv:2405.15682, class RAdamScheduleFree, with the rectification of
    Liu et al., arXiv:1908.03265. Deviation from the package: see :class:`ScheduleFreeSGD`.

    >>> rows = [ScheduleFreeRAdam().coefficients(step, **ScheduleFreeRAdam.scalars) for step in (1, 4, 5, 1000)]
    >>> [round(row["rate"], 6) for row in rows]
    [0.0, 0.0, 4.3e-05, 0.001613]
    """

    silent_sgd_phase: bool = flag(True)

    def _memory(self, step: int) -> float:
        """Return ρ_t, the number of gradients that the second moment is known from."""
        beta2 = self.betas[1]
        return 2 / (1 - beta2) - 1 - 2 * step * beta2**step / (1 - beta2**step)

    def _rate(self, step: int) -> float:
        rho, most = self._memory(step), 2 / (1 - self.betas[1]) - 1
        if rho > 4:
            rectified: float = ((rho - 4) * (rho - 2) * most / ((most - 4) * (most - 2) * rho)) ** 0.5
            return self.lr * rectified
        return 0.0 if self.silent_sgd_phase else self.lr

    def coefficients(self, step: int, **scalars: float) -> dict[str, float]:
        row = super().coefficients(step, **scalars)
        adapts = self._memory(step) > 4
        # While v is not used, eps = 0 must not turn it into 0/0.
        eps = self.eps if adapts else 1.0
        return {**row, "adaptive": 1.0 if adapts else 0.0, "plain": 0.0 if adapts else 1.0, "eps": eps}

    @staticmethod
    def _direction(g: Array, s: State, c: Coefficients) -> Array:
        s.exp_avg_sq = c.beta2 * s.exp_avg_sq + c.rest2 * (g * g)
        return g * (c.plain + c.adaptive / (sqrt(s.exp_avg_sq) * c.unbias2 + c.eps))

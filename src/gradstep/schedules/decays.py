"""Schedules that fall smoothly and have no end."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

from gradstep.schedules.base import Schedule
from gradstep.schedules.checks import count, level, positive


@final
@dataclass(frozen=True)
class Exponential(Schedule):
    """A value multiplied smoothly by ``factor`` over every ``every`` updates."""

    start: float
    factor: float
    every: int

    @property
    def updates(self) -> None:
        return None

    def value(self, update: int) -> float:
        return self.start * math.pow(self.factor, update / self.every)

    def boundaries(self, updates: int) -> tuple[int, ...]:
        return ()


@final
@dataclass(frozen=True)
class InverseSqrt(Schedule):
    """A decay as one over the square root of the update."""

    peak: float
    timescale: int

    @property
    def updates(self) -> None:
        return None

    def value(self, update: int) -> float:
        return self.peak * math.sqrt(self.timescale / (self.timescale + update))

    def boundaries(self, updates: int) -> tuple[int, ...]:
        return ()


def exponential(start: float, *, factor: float, per_updates: int = 1) -> Schedule:
    """A value multiplied smoothly by ``factor`` over every ``per_updates`` updates, without end.

        start · factor^(t / per_updates)

    ``torch.optim.lr_scheduler.ExponentialLR`` (``gamma``) with ``per_updates=1``.

    Args:
        start: first value, ≥ 0.
        factor: > 0.
        per_updates: ≥ 1. For a factor per epoch, give the number of updates of an epoch.

    Raises:
        ValueError: an argument outside its bounds.
        TypeError: ``per_updates`` is not a whole number.

    Example:
        >>> from gradstep.schedules import exponential
        >>> [exponential(1.0, factor=0.25, per_updates=2)(update) for update in range(5)]
        [1.0, 0.5, 0.25, 0.125, 0.0625]
    """
    return Exponential(level("start", start), positive("factor", factor), count("per_updates", per_updates, least=1))


def inverse_sqrt(peak: float, *, timescale_updates: int) -> Schedule:
    """A decay as one over the square root of the update, without end.

        peak · √(T / (T + t)),  T = timescale_updates

    After a warmup of T updates this is the schedule of the Transformer, which falls from its peak as 1/√(number of the
    update); transformers' ``get_inverse_sqrt_schedule``.

    Args:
        peak: first value, ≥ 0.
        timescale_updates: T, ≥ 1; after 3 T updates the value has halved.

    Raises:
        ValueError: an argument outside its bounds.
        TypeError: ``timescale_updates`` is not a whole number.

    Example:
        >>> from gradstep.schedules import inverse_sqrt, warmup
        >>> lr = warmup(updates=100, to=1.0).then(inverse_sqrt(1.0, timescale_updates=100))
        >>> lr(50), lr(100), lr(400), lr(10_000)
        (0.5, 1.0, 0.5, 0.1)

    Source: Vaswani et al., Attention Is All You Need, 2017, equation 3, arXiv:1706.03762.
    """
    return InverseSqrt(level("peak", peak), count("timescale_updates", timescale_updates, least=1))

"""Schedules without an end: constant, changing in steps, or falling smoothly."""

import math
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from typing import final

from gradstep.schedules.base import Schedule, count, level, positive


@final
@dataclass(frozen=True)
class Constant(Schedule):
    """One value."""

    level: float
    length: int | None

    @property
    def updates(self) -> int | None:
        return self.length

    def value(self, update: int) -> float:
        return self.level

    def boundaries(self, updates: int) -> tuple[int, ...]:
        return ()


class _Endless(Schedule):
    """The base of schedules without an end; they are one piece unless they override :meth:`boundaries`."""

    @property
    def updates(self) -> None:
        return None

    def boundaries(self, updates: int) -> tuple[int, ...]:
        return ()


@final
@dataclass(frozen=True)
class StepDecay(_Endless):
    """A value multiplied by ``factor`` every ``every`` updates."""

    start: float
    factor: float
    every: int

    def value(self, update: int) -> float:
        return self.start * self.factor ** (update // self.every)

    def boundaries(self, updates: int) -> tuple[int, ...]:
        return tuple(range(self.every, updates, self.every))


@final
@dataclass(frozen=True)
class MultiStep(_Endless):
    """A value multiplied by ``factor`` at each of the updates ``at``."""

    start: float
    factor: float
    at: tuple[int, ...]

    def value(self, update: int) -> float:
        return self.start * self.factor ** bisect_right(self.at, update)

    def boundaries(self, updates: int) -> tuple[int, ...]:
        return tuple(dict.fromkeys(b for b in self.at if 0 < b < updates))


@final
@dataclass(frozen=True)
class Exponential(_Endless):
    """A value multiplied smoothly by ``factor`` over every ``every`` updates."""

    start: float
    factor: float
    every: int

    def value(self, update: int) -> float:
        return self.start * math.pow(self.factor, update / self.every)


@final
@dataclass(frozen=True)
class InverseSqrt(_Endless):
    """A decay as one over the square root of the update."""

    peak: float
    timescale: int

    def value(self, update: int) -> float:
        return self.peak * math.sqrt(self.timescale / (self.timescale + update))


def constant(value: float, *, updates: int | None = None) -> Schedule:
    """One value; with ``updates``, a piece of that length for :meth:`~gradstep.schedules.Schedule.then`.

    Args:
        value: ≥ 0.
        updates: length, ≥ 0; None for no end.

    Raises:
        ValueError: the value is below 0 or not finite, or the length below 0.
        TypeError: the length is not a whole number.

    Example:
        >>> from gradstep.schedules import constant
        >>> constant(3e-4)(10_000)
        0.0003
    """
    return Constant(level("value", value), None if updates is None else count("updates", updates))


def step(start: float, *, every_updates: int, factor: float = 0.1) -> Schedule:
    """A value multiplied by ``factor`` every ``every_updates`` updates, without end.

        start · factor^⌊t / every_updates⌋

    ``torch.optim.lr_scheduler.StepLR`` (``step_size``, ``gamma``).

    Args:
        start: first value, ≥ 0.
        every_updates: ≥ 1.
        factor: > 0.

    Raises:
        ValueError: an argument outside its bounds.
        TypeError: ``every_updates`` is not a whole number.

    Example:
        >>> from gradstep.schedules import step
        >>> [step(1.0, every_updates=2, factor=0.5)(update) for update in range(5)]
        [1.0, 1.0, 0.5, 0.5, 0.25]
    """
    return StepDecay(level("start", start), positive("factor", factor), count("every_updates", every_updates, least=1))


def multi_step(start: float, *, at_updates: Iterable[int], factor: float = 0.1) -> Schedule:
    """A value multiplied by ``factor`` at each of the updates ``at_updates``, without end.

    ``torch.optim.lr_scheduler.MultiStepLR`` (``milestones``, ``gamma``).

    Args:
        start: first value, ≥ 0.
        at_updates: in any order, each ≥ 0; one given twice counts twice.
        factor: > 0.

    Raises:
        ValueError: an argument outside its bounds.
        TypeError: an update is not a whole number.

    Example:
        >>> from gradstep.schedules import multi_step
        >>> [multi_step(1.0, at_updates=[1, 4], factor=0.5)(update) for update in range(6)]
        [1.0, 0.5, 0.5, 0.5, 0.25, 0.25]
    """
    at = tuple(sorted(count("at_updates", update) for update in at_updates))
    return MultiStep(level("start", start), positive("factor", factor), at)


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

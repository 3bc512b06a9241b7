"""Schedules that go from one level to another in a given number of updates."""

import math
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import final

from gradstep.schedules.base import Schedule, count, fall, level, positive


class Slope(ABC):
    """A curve between two levels."""

    @abstractmethod
    def weights(self, done: float, left: float) -> tuple[float, float]:
        """Return the weights of the first and of the last level, which add up to 1.

        ``done`` and ``left`` are the shares of the way behind and ahead, both in [0, 1]. They add up to 1 too, but both
        are given, each exact to the last bit: ``1 - done`` would lose digits near the end of a long way.
        """


@final
@dataclass(frozen=True)
class StraightLine(Slope):
    """Straight."""

    def weights(self, done: float, left: float) -> tuple[float, float]:
        return left, done


@final
@dataclass(frozen=True)
class Wave(Slope):
    """A number of waves of a cosine that starts at its top; half a wave goes from one level to the other."""

    waves: float = 0.5

    def weights(self, done: float, left: float) -> tuple[float, float]:
        # sin² and cos² of half the angle would be exact where this loses digits near 0. But torch and transformers
        # compute it in this way, and agreeing with them to the last digit of a tiny learning rate is worth more.
        cos = math.cos(2 * math.pi * self.waves * done)
        return 0.5 * (1 + cos), 0.5 * (1 - cos)


@final
@dataclass(frozen=True)
class Power(Slope):
    """A power of the share that is left; if mirrored, of the share that is done."""

    power: float
    mirrored: bool = False

    def weights(self, done: float, left: float) -> tuple[float, float]:
        if self.mirrored:
            return 1 - done**self.power, done**self.power
        return left**self.power, 1 - left**self.power


FALLS: Mapping[str, Slope] = MappingProxyType(
    {"linear": StraightLine(), "cosine": Wave(), "1-sqrt": Power(0.5, mirrored=True)},
)
RISES: Mapping[str, Slope] = MappingProxyType({"linear": StraightLine(), "cosine": Wave(), "1-sqrt": Power(0.5)})
"""Each is the mirror image of the fall of the same name."""


def shape_named(argument: str, name: str, shapes: Mapping[str, Slope]) -> Slope:
    """Return the shape of that name, or raise an error that lists the names."""
    if name not in shapes:
        raise ValueError(f"Invalid {argument}: {name!r} (must be one of {', '.join(map(repr, shapes))})")
    return shapes[name]


def between(low: float, high: float, weight: float) -> float:
    """Return the value between two levels, of which the higher one has this weight.

    It is computed from the lower level up, so that no digits are lost near 0 and rounding never turns a rise into a
    fall; both ends are exact.
    """
    return high if weight == 1 else min(low + (high - low) * weight, high)


@final
@dataclass(frozen=True)
class Path(Schedule):
    """Levels at given updates, joined by curves of one shape.

    A level need not stand at a whole update: the phases of one-cycle do not.
    """

    levels: tuple[tuple[float, float], ...]
    """(update, value), from update 0 on, ascending."""
    shape: Slope
    length: int

    @property
    def updates(self) -> int:
        return self.length

    def value(self, update: int) -> float:
        inner = [at for at, _ in self.levels[1:-1]]
        index = bisect_right(inner, update)
        (begin, start), (end, goal) = self.levels[index : index + 2]
        if begin == end:
            return goal
        here = min(update, end)
        back, ahead = self.shape.weights((here - begin) / (end - begin), (end - here) / (end - begin))
        return between(goal, start, back) if start >= goal else between(start, goal, ahead)

    def boundaries(self, updates: int) -> tuple[int, ...]:
        inner = (math.ceil(update) for update, _ in self.levels[1:-1])
        return tuple(b for b in inner if 0 < b < updates)


def curve_between(start: float, goal: float, updates: int, shape: Slope) -> Path:
    """Return one curve from a level to another."""
    return Path(((0, start), (updates, goal)), shape, updates)


def linear(start: float, end: float = 0.0, *, updates: int) -> Schedule:
    """A straight line from ``start`` at update 0 to ``end`` at update ``updates``, up or down.

        start + (end − start) · t / updates

    ``torch.optim.lr_scheduler.LinearLR``, in values instead of factors.

    Args:
        start: first value, ≥ 0.
        end: value at and after the end, ≥ 0; 0 by default, as the ``floor`` of :func:`cosine`.
        updates: length, ≥ 0.

    Raises:
        ValueError: a value or the length is below 0 or not finite.
        TypeError: the length is not a whole number.

    Example:
        >>> from gradstep.schedules import linear
        >>> [linear(1.0, updates=4)(update) for update in range(6)]
        [1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
    """
    return curve_between(level("start", start), level("end", end), count("updates", updates), StraightLine())


def warmup(*, updates: int, to: float, start: float = 0.0, shape: str = "linear") -> Schedule:
    """A rise from ``start`` at update 0 to ``to`` at update ``updates``, where what follows begins.

    With ``start=0``, as in transformers, the first update moves nothing. To begin one step up the line instead, and
    reach ``to`` one update earlier: ``warmup(updates=n - 1, to=to, start=to / n)``.

    Args:
        updates: length, ≥ 0; with 0, there is no warmup.
        to: value at and after the end, ≥ ``start``.
        start: first value, ≥ 0.
        shape: ``"linear"``; ``"cosine"``, slow at both ends; or ``"1-sqrt"``, slow at first: 1 − √(1 − t / updates).

    Raises:
        ValueError: a value below 0 or not finite, ``start`` above ``to``, a length below 0, or an unknown shape.
        TypeError: the length is not a whole number.

    Example:
        >>> from gradstep.schedules import cosine, warmup
        >>> lr = warmup(updates=2, to=0.1).then(cosine(0.1, updates=4))
        >>> [round(lr(update), 4) for update in range(7)]
        [0.0, 0.05, 0.1, 0.0854, 0.05, 0.0146, 0.0]

    Source: Goyal et al., Accurate, Large Minibatch SGD, 2017, section 2.2, arXiv:1706.02677.
    """
    low, high = level("start", start), level("to", to)
    if low > high:
        raise ValueError(f"Invalid start: {start} (must be at most to, {to}; for a decay use linear() or cosine())")
    return curve_between(low, high, count("updates", updates), shape_named("shape", shape, RISES))


def cosine(peak: float, *, updates: int, floor: float = 0.0, waves: float = 0.5) -> Schedule:
    """A cosine from ``peak`` at update 0 down to ``floor`` at update ``updates``.

        floor + (peak − floor) · (1 + cos(2π · waves · t / updates)) / 2

    Equal to ``torch.optim.lr_scheduler.CosineAnnealingLR`` and transformers' ``get_cosine_schedule_with_warmup`` up to
    their end; after it they rise again, while this schedule holds its last value.

    Args:
        peak: first value, ≥ ``floor``.
        updates: length, ≥ 0.
        floor: lowest value, ≥ 0.
        waves: how many waves of the cosine, > 0; half a wave goes from the top to the bottom (transformers'
            ``num_cycles``).

    Raises:
        ValueError: a value below 0 or not finite, ``floor`` above ``peak``, a length below 0, ``waves`` not above 0.
        TypeError: the length is not a whole number.

    Example:
        >>> from gradstep.schedules import cosine
        >>> [round(cosine(1.0, updates=4, floor=0.1)(update), 4) for update in range(6)]
        [1.0, 0.8682, 0.55, 0.2318, 0.1, 0.1]

    Source: Loshchilov and Hutter, SGDR, 2017, equation 5, arXiv:1608.03983.
    """
    high, low = fall(peak, floor)
    return curve_between(high, low, count("updates", updates), Wave(positive("waves", waves)))


def polynomial(peak: float, *, updates: int, power: float = 1.0, floor: float = 0.0) -> Schedule:
    """A power of the share that is left, from ``peak`` at update 0 down to ``floor`` at update ``updates``.

        floor + (peak − floor) · (1 − t / updates)^power

    ``torch.optim.lr_scheduler.PolynomialLR`` and transformers' ``get_polynomial_decay_schedule_with_warmup``.

    Args:
        peak: first value, ≥ ``floor``.
        updates: length, ≥ 0.
        power: > 0; 1 is a straight line, more falls faster at first.
        floor: value at and after the end, ≥ 0.

    Raises:
        ValueError: a value below 0 or not finite, ``floor`` above ``peak``, a length below 0, ``power`` not above 0.
        TypeError: the length is not a whole number.

    Example:
        >>> from gradstep.schedules import polynomial
        >>> [polynomial(1.0, updates=4, power=2)(update) for update in range(6)]
        [1.0, 0.5625, 0.25, 0.0625, 0.0, 0.0]
    """
    high, low = fall(peak, floor)
    return curve_between(high, low, count("updates", updates), Power(positive("power", power)))

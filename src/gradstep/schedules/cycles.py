"""Schedules that repeat: cosine with warm restarts, triangular cycles."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import final

from gradstep.schedules.base import Schedule
from gradstep.schedules.checks import count, fall, level, shrinking
from gradstep.schedules.path import Wave, between


@final
@dataclass(frozen=True)
class CosineRestarts(Schedule):
    """Cosines one after another, each ``mult`` times as long as the one before."""

    peak: float
    floor: float
    first: Fraction
    mult: int
    cycles: int | None

    @property
    def updates(self) -> int | None:
        return None if self.cycles is None else math.ceil(self._begin(self.cycles))

    def value(self, update: int) -> float:
        if self.cycles is not None and update >= self._begin(self.cycles):
            return self.floor
        cycle = self._cycle(update)
        begin, end = self._begin(cycle), self._begin(cycle + 1)
        done = float((update - begin) / (end - begin))
        weight, _ = Wave().weights(done, 1 - done)
        return between(self.floor, self.peak, weight)

    def boundaries(self, updates: int) -> tuple[int, ...]:
        last = self._cycle(max(updates - 1, 0))
        begins = (math.ceil(self._begin(cycle)) for cycle in range(1, 1 + min(last, (self.cycles or last + 1) - 1)))
        return tuple(b for b in begins if b < updates)

    def _begin(self, cycle: int) -> Fraction:
        """Return where a cycle begins: the exact sum of the cycles before it."""
        if self.mult == 1:
            return self.first * cycle
        return self.first * int((self.mult**cycle - 1) // (self.mult - 1))

    def _cycle(self, update: int) -> int:
        """Return the cycle of an update: the last cycle that begins at it or before it."""
        if self.mult == 1:
            return update // self.first
        cycle = 0
        while self._begin(cycle + 1) <= update:
            cycle += 1
        return cycle


@final
@dataclass(frozen=True)
class Triangles(Schedule):
    """Lines up and down between two levels, with a height that may shrink."""

    base: float
    peak: float
    up: int
    down: int
    cycle_factor: float
    update_factor: float
    cycles: int | None

    @property
    def updates(self) -> int | None:
        return None if self.cycles is None else self.cycles * (self.up + self.down)

    def value(self, update: int) -> float:
        cycle, here = divmod(update, self.up + self.down)
        if self.cycles is not None and cycle >= self.cycles:
            return self.base
        share = here / self.up if here <= self.up else (self.up + self.down - here) / self.down
        height = self.cycle_factor**cycle * self.update_factor**update
        return self.base + (self.peak - self.base) * share * height

    def boundaries(self, updates: int) -> tuple[int, ...]:
        until = updates if self.updates is None else min(updates, self.updates)
        period = self.up + self.down
        return tuple(sorted({*range(self.up, until, period), *range(period, until, period)}))


def cosine_restarts(
    peak: float, *, first_updates: int | Fraction, mult: int = 1, floor: float = 0.0, cycles: int | None = None
) -> Schedule:
    """Cosines from ``peak`` to ``floor`` one after another (warm restarts), each ``mult`` times as long as the last.

    ``torch.optim.lr_scheduler.CosineAnnealingWarmRestarts`` (``T_0``, ``T_mult``, ``eta_min``). For k cycles in N
    updates, transformers' ``get_cosine_with_hard_restarts_schedule_with_warmup``, give
    ``first_updates=Fraction(N, k), cycles=k``: exact fractions restart where k · t / N is a whole number, of which
    floating point may come just short.

    Args:
        peak: value at the start of every cycle, ≥ ``floor``.
        first_updates: length of the first cycle, ≥ 1; a whole number or an exact ``fractions.Fraction``.
        mult: how many times as long each cycle is as the one before, ≥ 1.
        floor: lowest value, ≥ 0.
        cycles: how many, ≥ 1, after which ``floor`` is held; None for no end.

    Raises:
        ValueError: an argument outside its bounds.
        TypeError: a count is not a whole number.

    Example:
        >>> from gradstep.schedules import cosine_restarts
        >>> lr = cosine_restarts(1.0, first_updates=2, mult=2, cycles=2)
        >>> lr.updates, [round(lr(update), 4) for update in range(8)]
        (6, [1.0, 0.5, 1.0, 0.8536, 0.5, 0.1464, 0.0, 0.0])

    Source: Loshchilov and Hutter, SGDR, 2017, equation 5, arXiv:1608.03983.
    """
    high, low = fall(peak, floor)
    if not isinstance(first_updates, Fraction):
        first_updates = Fraction(count("first_updates", first_updates))
    if first_updates < 1:
        raise ValueError(f"Invalid first_updates: {first_updates} (must be at least 1)")
    times = None if cycles is None else count("cycles", cycles, least=1)
    return CosineRestarts(high, low, first_updates, count("mult", mult, least=1), times)


def triangular(
    base: float,
    peak: float,
    *,
    up_updates: int,
    down_updates: int | None = None,
    cycle_factor: float = 1.0,
    update_factor: float = 1.0,
    cycles: int | None = None,
) -> Schedule:
    """Lines from ``base`` to ``peak`` and back, again and again (cyclical learning rates).

        base + (peak − base) · share of the way · cycle_factor^cycle · update_factor^t

    The three modes of the paper and of ``torch.optim.lr_scheduler.CyclicLR`` are ``triangular`` (both factors 1),
    ``triangular2`` (``cycle_factor=0.5``) and ``exp_range`` (``update_factor=gamma``). The momentum that goes with it,
    inverse to the learning rate, is the same call with a ``peak`` below ``base``.

    Args:
        base: value at the start and end of every cycle, ≥ 0.
        peak: value in the middle of the first, ≥ 0, above or below ``base``.
        up_updates: from base to peak, ≥ 1.
        down_updates: back again, ≥ 1; by default as many.
        cycle_factor: what the height is multiplied by after every cycle, in (0, 1].
        update_factor: what the height is multiplied by after every update, in (0, 1].
        cycles: how many, ≥ 1, after which ``base`` is held; None for no end.

    Raises:
        ValueError: an argument outside its bounds.
        TypeError: a count is not a whole number.

    Example:
        >>> from gradstep.schedules import triangular
        >>> lr = triangular(0.25, 1.25, up_updates=2, cycle_factor=0.5)
        >>> [lr(update) for update in range(9)]
        [0.25, 0.75, 1.25, 0.75, 0.25, 0.5, 0.75, 0.5, 0.25]
        >>> momentum = triangular(0.95, 0.85, up_updates=2)

    Source: Smith, Cyclical Learning Rates for Training Neural Networks, 2017, section 3, arXiv:1506.01186.
    """
    up = count("up_updates", up_updates, least=1)
    down = up if down_updates is None else count("down_updates", down_updates, least=1)
    times = None if cycles is None else count("cycles", cycles, least=1)
    return Triangles(
        level("base", base),
        level("peak", peak),
        up,
        down,
        shrinking("cycle_factor", cycle_factor),
        shrinking("update_factor", update_factor),
        times,
    )

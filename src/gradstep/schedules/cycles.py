"""Schedules that repeat or rise and fall by themselves: restarts, triangles, one-cycle, warmup-stable-decay."""

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple, final

from gradstep.rules.settings import number
from gradstep.schedules.base import Schedule, count, fall, level, positive, shrinking
from gradstep.schedules.path import FALLS, Path, Wave, between, curve_between, shape_named, warmup
from gradstep.schedules.steps import constant


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


class OneCycle(NamedTuple):
    """The two schedules of one-cycle, each a function of the number of the update.

    Attributes:
        lr: the learning rate.
        momentum: the momentum, low where the learning rate is high.

    >>> cycle = one_cycle(0.1, updates=10)
    >>> cycle.lr(0), cycle.momentum(0)
    (0.004, 0.95)
    """

    lr: Schedule
    momentum: Schedule


def warmup_stable_decay(
    peak: float,
    *,
    warmup_updates: int,
    stable_updates: int,
    decay_updates: int,
    start: float = 0.0,
    floor: float = 0.0,
    warmup_shape: str = "linear",
    decay_shape: str = "1-sqrt",
) -> Schedule:
    """A rise to ``peak``, a long plateau, and a decay at the end (WSD).

    The plateau can be prolonged, or ended by a decay at any time, so that the length of a run need not be planned.
    In transformers this is ``get_wsd_schedule``; its ``min_lr_ratio`` gives both ``start`` and ``floor``, and its
    ``decay_type`` is ``"cosine"`` by default. ``"1-sqrt"`` did best in the study below.

    Args:
        peak: value of the plateau, ≥ ``start`` and ≥ ``floor``.
        warmup_updates: ≥ 0.
        stable_updates: ≥ 0.
        decay_updates: ≥ 0.
        start: first value, ≥ 0.
        floor: value at and after the end, ≥ 0.
        warmup_shape: of the rise: ``"linear"``, ``"cosine"`` or ``"1-sqrt"``, see :func:`warmup`.
        decay_shape: of the decay: the same, mirrored; ``"1-sqrt"`` is 1 − √(share done).

    Raises:
        ValueError: an argument outside its bounds, or an unknown shape.
        TypeError: a length is not a whole number.

    Example:
        >>> from gradstep.schedules import warmup_stable_decay
        >>> lr = warmup_stable_decay(1.0, warmup_updates=2, stable_updates=3, decay_updates=4)
        >>> [round(lr(update), 4) for update in range(10)]
        [0.0, 0.5, 1.0, 1.0, 1.0, 1.0, 0.5, 0.2929, 0.134, 0.0]

    Source: Hu et al., MiniCPM, 2024, section 4, arXiv:2404.06395; the shape of the decay: Hägele et al., Scaling Laws
    and Compute-Optimal Training Beyond Fixed Training Durations, 2024, section 3, arXiv:2405.18392.
    """
    high, low = fall(peak, floor)
    decay = curve_between(
        high, low, count("decay_updates", decay_updates), shape_named("decay_shape", decay_shape, FALLS)
    )
    rise = warmup(updates=count("warmup_updates", warmup_updates), to=high, start=start, shape=warmup_shape)
    return rise.then(constant(high, updates=count("stable_updates", stable_updates))).then(decay)


def one_cycle(
    peak: float,
    *,
    updates: int,
    warmup_share: float = 0.3,
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
    low_momentum: float = 0.85,
    high_momentum: float = 0.95,
    shape: str = "cosine",
    three_phase: bool = False,
) -> OneCycle:
    """One rise to a high learning rate and one fall to nearly nothing, with the momentum inverse to it.

    From peak / div_factor up to peak in the first ``warmup_share`` of the updates, then down to
    peak / div_factor / final_div_factor, reached at the last update (``updates`` − 1). With ``three_phase``, as in the
    paper, the fall first mirrors the rise and only then goes on below it. ``torch.optim.lr_scheduler.OneCycleLR``.

    Args:
        peak: highest learning rate, ≥ 0.
        updates: length, ≥ 2.
        warmup_share: share of the updates in the rise, in (0, 1), more than one update; with ``three_phase`` below 1/2.
        div_factor: peak over first value, ≥ 1.
        final_div_factor: first over last value, ≥ 1 (torch allows less).
        low_momentum: momentum at the peak, in [0, 1].
        high_momentum: momentum at the start and end, in [``low_momentum``, 1].
        shape: of every phase, ``"cosine"`` or ``"linear"``.
        three_phase: the paper's form instead of fastai's.

    Returns:
        A named tuple of two schedules, ``lr`` and ``momentum``.

    Raises:
        ValueError: an argument outside its bounds, or an unknown shape.
        TypeError: ``updates`` is not a whole number.

    Example:
        >>> from gradstep.schedules import one_cycle
        >>> lr, momentum = one_cycle(1.0, updates=10, warmup_share=0.4, shape="linear")
        >>> [round(lr(update), 2) for update in range(10)]
        [0.04, 0.36, 0.68, 1.0, 0.83, 0.67, 0.5, 0.33, 0.17, 0.0]
        >>> [round(momentum(update), 2) for update in range(10)]
        [0.95, 0.92, 0.88, 0.85, 0.87, 0.88, 0.9, 0.92, 0.93, 0.95]

    Source: Smith and Topin, Super-Convergence, 2018, section 3, arXiv:1708.07120.
    """
    high = level("peak", peak)
    total = count("updates", updates, least=2)
    share = number("warmup_share", warmup_share)
    rise, end = share * total - 1, total - 1
    turn = 2 * rise if three_phase else rise
    if not (rise > 0 and turn < end):
        most = "1/2" if three_phase else "1"
        raise ValueError(
            f"Invalid warmup_share: {warmup_share} (must be more than one update, 1/{total}, and less than {most})"
        )
    for name, factor in (("div_factor", div_factor), ("final_div_factor", final_div_factor)):
        if positive(name, factor) < 1:
            raise ValueError(f"Invalid {name}: {factor} (must be at least 1)")
    low_m, high_m = level("low_momentum", low_momentum), level("high_momentum", high_momentum)
    if not low_m <= high_m <= 1:
        raise ValueError(f"Invalid momentum: {low_momentum} to {high_momentum} (must ascend and be between 0 and 1)")
    curve = shape_named("shape", shape, {name: FALLS[name] for name in ("cosine", "linear")})
    first = high / div_factor
    turns = [(0.0, first, high_m), (rise, high, low_m)]
    if three_phase:
        turns.append((turn, first, high_m))
    turns.append((end, first / final_div_factor, high_m))
    return OneCycle(
        lr=Path(tuple((at, lr) for at, lr, _ in turns), curve, total),
        momentum=Path(tuple((at, momentum) for at, _, momentum in turns), curve, total),
    )

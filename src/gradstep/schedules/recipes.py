"""Schedules for a whole training run: warmup-stable-decay and one-cycle."""

from __future__ import annotations

from typing import NamedTuple

from gradstep.rules.settings import number
from gradstep.schedules.base import Schedule
from gradstep.schedules.checks import count, fall, level, positive
from gradstep.schedules.path import FALLS, Path, curve_between, shape_named, warmup
from gradstep.schedules.steps import constant


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

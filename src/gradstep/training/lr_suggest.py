"""Suggest learning rates from a curve of losses by well-known methods, or say why a curve suggests none."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median_high, median_low
from types import MappingProxyType
from typing import final

import numpy as np

from gradstep.training.lr_sweep import FALL, LEAST, WIDTH, LrSweep

RECOMMENDED = "steepest"
"""The method that trained best in benchmarks/results/lr_find.md."""

AGREEMENT = 10.0
"""Sweeps agree if their suggestions differ by at most this factor."""

END_SLOPE = 0.8
"""The loss is still falling at the end if its slope there is at least this share of the steepest slope.

The slope is taken two thirds of a decade before the end: nearer to it, smoothing uses one side only. With Adafactor on
digits the share is 0.4 to 0.7 at lr 2, and the steepest point, at 0.3, trains best.
"""

UNTRAINED = "raise end=, or look for parameters that are not trained"


def steepest(sweep: LrSweep) -> float:
    """Return the learning rate at the steepest fall of the smoothed loss, before its lowest point.

    The slope is taken over the *logarithm* of the learning rate: over the learning rate itself, slopes at small rates
    are divided by small differences and are always the steepest.
    """
    slopes = np.gradient(sweep.smoothed, np.log(sweep.lrs))
    return float(sweep.lrs[np.argmin(slopes[: sweep.lowest + 1])])


def valley(sweep: LrSweep) -> float:
    """Return the middle, on a logarithmic scale, of the longest decreasing subsequence of the smoothed losses (fastai).

    In a sweep that begins far below any useful rate, most of that subsequence is the long, nearly flat beginning: this
    is the most cautious suggestion.
    """
    losses = sweep.smoothed
    length, begin = [1] * len(losses), list(range(len(losses)))
    for i in range(len(losses)):
        for j in range(i):
            if losses[i] < losses[j] and length[i] <= length[j]:
                length[i], begin[i] = length[j] + 1, begin[j]
    end = int(np.argmax(length))
    return math.sqrt(sweep.lrs[begin[end]] * sweep.lrs[end])


def tenth_of_minimum(sweep: LrSweep) -> float | None:
    """Return a tenth of the learning rate with the lowest smoothed loss; None if that is the end of the sweep."""
    return None if sweep.lowest == len(sweep.lrs) - 1 else float(sweep.lrs[sweep.lowest] / 10)


def tenth_of_explosion(sweep: LrSweep) -> float | None:
    """Return a tenth of the learning rate at which the loss exploded; None if it did not."""
    return None if sweep.explosion is None else sweep.explosion / 10


METHODS: Mapping[str, Callable[[LrSweep], float | None]] = MappingProxyType(
    {
        "steepest": steepest,
        "valley": valley,
        "a tenth of the minimum": tenth_of_minimum,
        "a tenth of the explosion": tenth_of_explosion,
    }
)


@final
@dataclass(frozen=True)
class LrSuggestion:
    """The learning rate that one method suggests, over all sweeps.

    Attributes:
        name: one of "steepest", "valley", "a tenth of the minimum", "a tenth of the explosion".
        values: the suggestion of each sweep, without the sweeps that suggest none.

    >>> suggestion = LrSuggestion("steepest", (1e-3, 4e-3, 2e-3))
    >>> suggestion.low, suggestion.lr, suggestion.high
    (0.001, 0.002, 0.004)
    >>> print(suggestion)
    0.002 (0.001 to 0.004)
    """

    name: str
    values: tuple[float, ...]

    @property
    def lr(self) -> float:
        """The median; of an even number, the geometric mean of the middle two."""
        lower, upper = median_low(self.values), median_high(self.values)
        return lower if lower == upper else math.sqrt(lower * upper)

    @property
    def low(self) -> float:
        """The lowest value."""
        return min(self.values)

    @property
    def high(self) -> float:
        """The highest value."""
        return max(self.values)

    def __str__(self) -> str:
        spread = f" ({self.low:.2g} to {self.high:.2g})" if len(self.values) > 1 else ""
        return f"{self.lr:.2g}{spread}"


def suggestions(sweeps: Sequence[LrSweep]) -> dict[str, LrSuggestion]:
    """Return the suggestions of the sweeps by method; a method without a value is left out."""
    usable = [sweep for sweep in sweeps if not sweep_refusal(sweep)]
    results = {name: [method(sweep) for sweep in usable] for name, method in METHODS.items()}
    values = {name: tuple(v for v in result if v is not None) for name, result in results.items()}
    return {name: LrSuggestion(name, each) for name, each in values.items() if each}


def sweep_refusal(sweep: LrSweep) -> str:
    """Return why a sweep suggests nothing and what to change; empty if it suggests something."""
    count = len(sweep.lrs)
    if not count and sweep.stopped:
        return f"{sweep.stopped}: no learning rate is the cause; look at the data and at the model's weights"
    if count < LEAST:
        ended = f": {sweep.stopped}; lower start=" if sweep.stopped else "; raise updates="
        return f"there are {count} points, too few (at least {LEAST}){ended}"
    if sweep.fall <= FALL * sweep.noise:
        return _explain_no_fall(sweep)
    if _is_still_falling(sweep):
        return f"the loss is still falling at the end, at lr {sweep.lrs[-1]:.2g}: raise end="
    return ""


def _explain_no_fall(sweep: LrSweep) -> str:
    """Return why the loss does not fall: a start that is too high, noise, or parameters that are not trained."""
    sizes = f"the smoothed loss falls by {sweep.fall:.2g}, and noise alone moves it by {sweep.noise:.2g}"
    first = sweep.smoothed[sweep.lrs <= 10 * sweep.lrs[0]]  # the first decade: a later climb has lower rates before it
    climbs = first.max() - sweep.smoothed.min() > FALL * sweep.noise
    if sweep.explosion is not None and climbs:
        return f"the loss climbs without having fallen ({sizes}): lower start="
    if sweep.noisy and sweep.fall > 0:
        times = max(2, math.ceil((FALL * sweep.noise / sweep.fall) ** 2))
        advice = (
            f"if the loss falls, noise hides it ({sizes}): average over at least {times} times as many examples an "
            "update (the stepper's accumulate=, or larger batches)"
        )
        return advice if sweep.explosion is not None else f"{advice}; if it stays flat, {UNTRAINED}"
    return f"the loss is flat ({sizes}): {UNTRAINED}"


def _is_still_falling(sweep: LrSweep) -> bool:
    """Return whether the steepest slope may lie beyond the end: the slope there is about as steep as anywhere."""
    if sweep.lowest < len(sweep.lrs) - 1:
        return False
    slopes = np.gradient(sweep.smoothed, np.log(sweep.lrs))
    end = int(np.searchsorted(sweep.lrs, sweep.lrs[-1] / 10 ** (2 * WIDTH)))
    return bool(np.argmin(slopes) >= end or slopes[end] <= END_SLOPE * slopes.min())


def refusal(sweeps: Sequence[LrSweep]) -> str:
    """Return why all sweeps together recommend nothing; empty if they recommend something."""
    reasons = [reason for sweep in sweeps if (reason := sweep_refusal(sweep))]
    if 2 * len(reasons) >= len(sweeps):
        return reasons[0] if len(sweeps) == 1 else f"{len(reasons)} of {len(sweeps)} sweeps say nothing; {reasons[0]}"
    best = suggestions(sweeps)[RECOMMENDED]
    if best.high > AGREEMENT * best.low:
        return (
            f"the sweeps disagree, from {best.low:.2g} to {best.high:.2g}: there is too much noise; take larger "
            "batches (accumulate=), or more updates="
        )
    return ""

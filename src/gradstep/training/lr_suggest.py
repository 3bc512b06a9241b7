"""What a curve of losses over learning rates suggests, by the names that people know, or why it suggests nothing."""

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
"""The suggestion that trained best in benchmarks/results/lr_find.md."""

AGREEMENT = 10.0
"""Sweeps that differ by a larger factor do not agree."""

STILL = 0.8
"""A loss still falls at the end if its slope there is so large a share of the steepest.

It is taken two thirds of a decade before the end: nearer, smoothing looks to one side. With Adafactor on digits the
share is 0.4 to 0.7 at lr 2, and the steepest point, at 0.3, trains best.
"""

UNTRAINED = "raise end=, or look for parameters that are not trained"


def steepest(sweep: LrSweep) -> float:
    """Where the smoothed loss falls fastest over the *logarithm* of the learning rate, before its lowest point.

    Over the learning rate itself the slope at small rates is divided by small differences, and always wins.
    """
    slopes = np.gradient(sweep.smoothed, np.log(sweep.lrs))
    return float(sweep.lrs[np.argmin(slopes[: sweep.lowest + 1])])


def valley(sweep: LrSweep) -> float:
    """The middle, on a logarithmic scale, of the longest decreasing subsequence of the smoothed losses (fastai's).

    On a sweep that begins far below any useful rate, most of the valley is the long, hardly sloping way into it: this
    is the most cautious of the suggestions.
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
    """A tenth of the learning rate at which the smoothed loss is lowest; None if that is the end of the sweep."""
    return None if sweep.lowest == len(sweep.lrs) - 1 else float(sweep.lrs[sweep.lowest] / 10)


def tenth_of_explosion(sweep: LrSweep) -> float | None:
    """A tenth of the learning rate at which the loss exploded; None if it did not."""
    return None if sweep.explosion is None else sweep.explosion / 10


WAYS: Mapping[str, Callable[[LrSweep], float | None]] = MappingProxyType(
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
    """A learning rate by one name, as all sweeps see it.

    Attributes:
        name: one of "steepest", "valley", "a tenth of the minimum", "a tenth of the explosion".
        values: what each sweep that suggests anything suggests.

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
        """The lowest."""
        return min(self.values)

    @property
    def high(self) -> float:
        """The highest."""
        return max(self.values)

    def __str__(self) -> str:
        spread = f" ({self.low:.2g} to {self.high:.2g})" if len(self.values) > 1 else ""
        return f"{self.lr:.2g}{spread}"


def suggestions(sweeps: Sequence[LrSweep]) -> dict[str, LrSuggestion]:
    """What the sweeps suggest, by name; a way that finds nothing is left out."""
    sound = [sweep for sweep in sweeps if not refusal_of(sweep)]
    found = {name: [way(sweep) for sweep in sound] for name, way in WAYS.items()}
    told = {name: tuple(v for v in values if v is not None) for name, values in found.items()}
    return {name: LrSuggestion(name, values) for name, values in told.items() if values}


def refusal_of(sweep: LrSweep) -> str:
    """Why a sweep suggests nothing, and what to change; empty if it does."""
    count = len(sweep.lrs)
    if not count and sweep.stopped:
        return f"{sweep.stopped}: no learning rate is the cause; look at the data and at the model's weights"
    if count < LEAST:
        ended = f": {sweep.stopped}; lower start=" if sweep.stopped else "; raise updates="
        return f"there are {count} points, too few (at least {LEAST}){ended}"
    if sweep.fall <= FALL * sweep.noise:
        return _why_no_fall(sweep)
    if _still_falling(sweep):
        return f"the loss is still falling at the end, at lr {sweep.lrs[-1]:.2g}: raise end="
    return ""


def _why_no_fall(sweep: LrSweep) -> str:
    """What hides the fall: a start that is too high, noise, or nothing that is trained."""
    said = f"the smoothed loss falls by {sweep.fall:.2g}, and noise alone moves it by {sweep.noise:.2g}"
    first = sweep.smoothed[sweep.lrs <= 10 * sweep.lrs[0]]  # a decade: below it, lower rates were tried already
    climbs = first.max() - sweep.smoothed.min() > FALL * sweep.noise
    if sweep.explosion is not None and climbs:
        return f"the loss climbs without having fallen ({said}): lower start="
    if sweep.noisy and sweep.fall > 0:
        times = max(2, math.ceil((FALL * sweep.noise / sweep.fall) ** 2))
        hidden = (
            f"if the loss falls, noise hides it ({said}): average over at least {times} times as many examples an "
            "update (the stepper's accumulate=, or larger batches)"
        )
        return hidden if sweep.explosion is not None else f"{hidden}; if it stays flat, {UNTRAINED}"
    return f"the loss is flat ({said}): {UNTRAINED}"


def _still_falling(sweep: LrSweep) -> bool:
    """Whether the steepest slope may lie beyond the end: the loss falls about as fast there as anywhere."""
    if sweep.lowest < len(sweep.lrs) - 1:
        return False
    slopes = np.gradient(sweep.smoothed, np.log(sweep.lrs))
    end = int(np.searchsorted(sweep.lrs, sweep.lrs[-1] / 10 ** (2 * WIDTH)))
    return bool(np.argmin(slopes) >= end or slopes[end] <= STILL * slopes.min())


def refusal(sweeps: Sequence[LrSweep]) -> str:
    """Why all sweeps together recommend nothing; empty if they do."""
    reasons = [refusal_of(sweep) for sweep in sweeps]
    refused = [reason for reason in reasons if reason]
    if 2 * len(refused) >= len(reasons):
        return refused[0] if len(reasons) == 1 else f"{len(refused)} of {len(reasons)} sweeps say nothing; {refused[0]}"
    best = suggestions(sweeps)[RECOMMENDED]
    if best.high > AGREEMENT * best.low:
        return (
            f"the sweeps disagree, from {best.low:.2g} to {best.high:.2g}: there is too much noise; take larger "
            "batches (accumulate=), or more updates="
        )
    return ""

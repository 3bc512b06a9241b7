"""Readings: what learning rate, loss, gradient, weights and updates of a run say, in words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from gradstep.monitor.doctor.evidence import WIDTH, Evidence, Series
from gradstep.monitor.doctor.finding import Finding
from gradstep.monitor.doctor.rules.gradients import ALARMING
from gradstep.monitor.doctor.rules.learning_rate import HIGH_RATIO, LOW_RATIO, RELAPSE, relapse

USUAL_NORM = (0.1, 10.0)
"""Gradient norms that need no thought (common advice for fine-tuning; over 100 is alarming)."""

FLAT = 0.02
"""A loss that lost less of its start than this is called flat. A choice."""

GROWING = "growing, as weights do while much is learnt"

GOOD = ("falling", "too few", "usual", "steady", "low", GROWING)
"""How readings begin that find nothing wrong with their quantity."""

JAGGED = 0.25
"""The step from one loss to the next, as a median, over the loss's whole fall. A choice."""

STEADY = 0.1
"""Weight norms that changed by less than this share are called steady. A choice."""


@final
@dataclass(frozen=True)
class Reading:
    """One quantity of a run.

    Attributes:
        quantity: what was measured.
        first, last, median: its course in numbers.
        meaning: what that says.
    """

    quantity: str
    first: float
    last: float
    median: float
    meaning: str

    def __str__(self) -> str:
        return f"{self.quantity} {self.first:.3g} → {self.last:.3g}, median {self.median:.3g}: {self.meaning}"


def readings(evidence: Evidence, findings: Sequence[Finding]) -> tuple[Reading, ...]:
    """A reading of every quantity that the record holds; where a finding spoils one, the reading refers to it."""
    makers = (
        ("learning rate", evidence.lr, _lr),
        ("loss", evidence.loss, _loss),
        ("gradient norm", evidence.grad_norm, _gradient),
        ("weight norm", evidence.weight_norm, _weights),
        ("update over weights", evidence.ratio, _ratio),
    )
    return tuple(
        Reading(
            name,
            float(series.values[0]),
            float(series.values[-1]),
            series.median,
            _refer(of(series), [f.cause.title for f in findings if name in f.cause.spoils]),
        )
        for name, series, of in makers
        if len(series)
    )


def _refer(meaning: str, titles: Sequence[str]) -> str:
    """Return the reading, or the title of a finding where the reading would call a spoiled quantity good."""
    return f"see: {titles[0]}" if titles and meaning.startswith(GOOD) else meaning


def _lr(lr: Series) -> str:
    highest = lr.values.max()
    if lr.values.min() == highest:
        return "constant"
    at = int(lr.updates[lr.values.argmax()])
    return f"highest at update {at}, {highest:.3g}; hold it against the schedule that was meant"


def _loss(loss: Series) -> str:
    if len(loss) < 2 * WIDTH:
        return "too few updates to say"
    start, end = loss.part(0, 0.1).median, loss.part(0.9, 1).median
    if relapse(loss).values[-1] >= RELAPSE:
        return "exploding: it ends far above its lowest value, learning rate or data are the suspects"
    if start - end < FLAT * abs(start):
        return "flat: nothing is learnt, or all was learnt before; look at learning rate and gradients"
    step = sorted(abs(a - b) for a, b in zip(loss.values, loss.values[1:]))[len(loss) // 2]
    if step > JAGGED * abs(start - end):
        return "falling, but jagged: small batches, or a learning rate near its limit"
    return "falling"


def _gradient(norm: Series) -> str:
    low, high = USUAL_NORM
    if norm.median > ALARMING:
        return f"alarming: over {ALARMING:g}"
    if norm.median > high:
        return f"high: {low:g} to {high:g} is usual, over {ALARMING:g} alarming"
    if norm.median < low:
        return f"low: {low:g} to {high:g} is usual; at the end of a long training lower is too"
    return f"usual: {low:g} to {high:g}"


def _weights(norm: Series) -> str:
    first, last = float(norm.values[0]), float(norm.values[-1])
    change = last / first - 1 if first > 0 else math.inf
    if change > STEADY:
        return f"{GROWING}; if it goes on and the loss does not fall, decay is too low"
    if change < -STEADY:
        return "shrinking: if it goes on, decay is too high"
    return "steady"


def _ratio(ratio: Series) -> str:
    if ratio.median >= HIGH_RATIO:
        return "far too large: about 1e-3 is usual"
    if ratio.median <= LOW_RATIO:
        return "very small: about 1e-3 is usual"
    return "usual: about 1e-3, from 1e-4 in fine-tuning to 1e-2 in small networks"

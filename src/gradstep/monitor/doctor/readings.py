"""The diagnosis of a run: its findings in order, and the meaning of loss, gradient, weights and updates."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

from gradstep.monitor.doctor.evidence import MEDIAN_WIDTH, Evidence, Series
from gradstep.monitor.doctor.finding import Finding
from gradstep.monitor.doctor.rules.learning_rate import HIGH_RATIO, LOW_RATIO, RELAPSE, relapse
from gradstep.monitor.record import ALARMING_GRADIENT, HEALTHY_GRADIENT

FLAT = 0.02
"""A loss that fell by less than this share of its start is called flat. A choice."""

GROWING = "growing, as weights do while much is learnt"

GOOD = ("falling", "too few", "usual", "steady", "low", GROWING)
"""The first words of readings that find nothing wrong."""

JAGGED = 0.25
"""A loss is called jagged if its median step from one update to the next exceeds this share of its whole fall. A
choice."""

STEADY = 0.1
"""A weight norm that changed by less than this share is called steady. A choice."""


@final
@dataclass(frozen=True)
class Reading:
    """A quantity of a run and its meaning.

    Attributes:
        quantity: the name of the quantity.
        first, last, median: its first, last and median value.
        meaning: the meaning of these values.
    """

    quantity: str
    first: float
    last: float
    median: float
    meaning: str

    def __str__(self) -> str:
        return f"{self.quantity} {self.first:.3g} → {self.last:.3g}, median {self.median:.3g}: {self.meaning}"


def readings(evidence: Evidence, findings: Sequence[Finding]) -> tuple[Reading, ...]:
    """Return a reading of every recorded quantity; it refers to a finding that spoils the quantity."""
    makers = (
        ("learning rate", evidence.lr, _read_lr),
        ("loss", evidence.loss, _read_loss),
        ("gradient norm", evidence.grad_norm, _read_gradient),
        ("weight norm", evidence.weight_norm, _read_weights),
        ("update over weights", evidence.ratio, _read_ratio),
    )
    return tuple(
        Reading(
            name,
            float(series.values[0]),
            float(series.values[-1]),
            series.median,
            _refer(read(series), [f.cause.title for f in findings if name in f.cause.spoils]),
        )
        for name, series, read in makers
        if len(series)
    )


def _refer(meaning: str, titles: Sequence[str]) -> str:
    """Return the reading, or the title of a finding where the reading would call a spoiled quantity good."""
    return f"see: {titles[0]}" if titles and meaning.startswith(GOOD) else meaning


def _read_lr(lr: Series) -> str:
    highest = lr.values.max()
    if lr.values.min() == highest:
        return "constant"
    at = int(lr.updates[lr.values.argmax()])
    return f"highest at update {at}, {highest:.3g}; hold it against the schedule that was meant"


def _read_loss(loss: Series) -> str:
    if len(loss) < 2 * MEDIAN_WIDTH:
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


def _read_gradient(norm: Series) -> str:
    low, high = HEALTHY_GRADIENT
    if norm.median > ALARMING_GRADIENT:
        return f"alarming: over {ALARMING_GRADIENT:g}"
    if norm.median > high:
        return f"high: {low:g} to {high:g} is usual, over {ALARMING_GRADIENT:g} alarming"
    if norm.median < low:
        return f"low: {low:g} to {high:g} is usual; at the end of a long training lower is too"
    return f"usual: {low:g} to {high:g}"


def _read_weights(norm: Series) -> str:
    first, last = float(norm.values[0]), float(norm.values[-1])
    change = last / first - 1 if first > 0 else math.inf
    if change > STEADY:
        return f"{GROWING}; if it goes on and the loss does not fall, decay is too low"
    if change < -STEADY:
        return "shrinking: if it goes on, decay is too high"
    return "steady"


def _read_ratio(ratio: Series) -> str:
    if ratio.median >= HIGH_RATIO:
        return "far too large: about 1e-3 is usual"
    if ratio.median <= LOW_RATIO:
        return "very small: about 1e-3 is usual"
    return "usual: about 1e-3, from 1e-4 in fine-tuning to 1e-2 in small networks"


@final
@dataclass(frozen=True)
class Diagnosis:
    """The result of :func:`gradstep.diagnose`; ``str()`` returns it as a report.

    Attributes:
        findings: what is wrong, the likeliest cause first and consequences of other findings last.
        readings: the course of each quantity and its meaning.
        updates: number of updates in the record.

    >>> print(Diagnosis(findings=(), readings=(), updates=1_000))
    1,000 updates: nothing wrong found
    """

    findings: tuple[Finding, ...]
    readings: tuple[Reading, ...]
    updates: int

    @property
    def healthy(self) -> bool:
        """Whether nothing was found."""
        return not self.findings

    @property
    def exit_code(self) -> int:
        """0 when nothing was found, else 1."""
        return 0 if self.healthy else 1

    @property
    def headline(self) -> str:
        """The result in one line."""
        count = len(self.findings)
        result = "nothing wrong found" if self.healthy else f"{count} finding{'s' if count > 1 else ''}"
        return f"{self.updates:,} updates: {result}"

    def as_dict(self) -> dict[str, Any]:
        """Return the diagnosis as plain values for JSON."""
        return {
            "healthy": self.healthy,
            "updates": self.updates,
            "findings": [finding.as_dict() for finding in self.findings],
            "readings": [vars(reading) for reading in self.readings],
        }

    def __str__(self) -> str:
        lines = [self.headline]
        lines += [f"\n{number}. {finding}" for number, finding in enumerate(self.findings, 1)]
        if self.readings:
            lines.append("\nreadings")
            lines += [f"  {reading}" for reading in self.readings]
        return "\n".join(lines)


def rank_findings(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Order findings: causes before their consequences, then by severity, then by score."""
    every = tuple(findings)
    with_causes = [
        replace(finding, because_of=tuple(f.cause.title for f in every if finding.cause.name in f.cause.explains))
        for finding in every
    ]
    return tuple(sorted(with_causes, key=lambda f: (bool(f.because_of), f.cause.severity.rank, -f.score)))

"""Weights that nothing holds."""

from __future__ import annotations

import math

from gradstep.monitor.doctor.evidence import WIDTH, Evidence
from gradstep.monitor.doctor.finding import Cause, Fact, Finding, Severity
from gradstep.monitor.doctor.words import fell

CAUSE = Cause(
    "weights_growing",
    "weights growing: decay too low",
    Severity.WARNING,
    "The weight norm grows like a random walk, with hardly any gain in the loss: updates add up and nothing takes "
    "them back, so that each does less, and a network without normalisation becomes unstable.",
    "Raise weight_decay (0.01 to 0.1 for AdamW; ten times that for Lion, at a tenth of the rate), or lower the "
    "learning rate.",
    spoils=frozenset({"weight norm"}),
)

EXPONENT = 0.3
"""The power of the number of updates by which the norm grows over the second half of the run. Without decay a random
walk of equal steps has 1/2, and comes to rest with it: Kosson et al., "Rotational Equilibrium: How Weight Decay
Balances Learning Across Neural Networks", arXiv:2305.17212, section 3. Measured in benchmarks/doctor.py: up to 0.17
in healthy runs, 0.5 and more in sick ones."""

GROWN = 1.5
"""The norm at the end over that at the start. A choice."""

FALL = 0.1
"""The share of itself that the loss loses in the second half: if more, the growth is learning. A choice."""

LEAST_UPDATES = 100
"""In short runs from scratch every weight still grows. A choice."""


def weights_growing(evidence: Evidence) -> Finding | None:
    """A norm that still grows like a power of the updates in the second half of the run, for no gain."""
    norm, loss = evidence.weight_norm, evidence.loss
    if len(norm) < 2 * WIDTH or len(loss) < 2 * WIDTH or norm.span[1] + 1 < LEAST_UPDATES or norm.values[0] <= 0:
        return None
    middle, end = norm.part(0.5, 0.55), norm.part(0.95, 1.0)
    if middle.median <= 0:
        return None
    exponent = math.log(end.median / middle.median) / math.log(2)
    grown = end.median / float(norm.values[0])
    before, after = loss.part(0.45, 0.55).median, loss.part(0.9, 1.0).median
    fall = (before - after) / abs(before) if before else 0.0
    if exponent < EXPONENT or grown < GROWN or fall > FALL:
        return None
    text = f"in the second half the weight norm grew as the {exponent:.2f}th power of the updates (limit {EXPONENT:g})"
    facts = (
        Fact(text, exponent, EXPONENT, (middle.span[0], end.span[1])),
        Fact(f"it went from {norm.values[0]:.3g} to {end.median:.3g}", grown, GROWN, norm.span),
        Fact(f"the loss meanwhile {fell(fall)}", fall, FALL, (middle.span[0], end.span[1])),
    )
    return Finding(CAUSE, min(1.0, 0.5 + exponent - EXPONENT), facts)

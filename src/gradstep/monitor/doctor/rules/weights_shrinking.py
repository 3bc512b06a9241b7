"""Weights that the decay eats up."""

from __future__ import annotations

import math

from gradstep.monitor.doctor.evidence import WIDTH, Evidence
from gradstep.monitor.doctor.finding import Cause, Fact, Finding, Severity, grade

CAUSE = Cause(
    "weights_shrinking",
    "weights shrinking: decay too high",
    Severity.WARNING,
    "The weight norm falls far below its start: the decay takes away more than learning adds.",
    "Lower weight_decay, to 0.01 to 0.1 for AdamW, 1e-4 to 5e-4 for SGD; what counts is learning rate × decay × "
    "number of updates, which should not be far above 1.",
    frozenset({"gradients_vanished", "lr_too_high"}),
    frozenset({"weight norm"}),
)

KEPT = 0.7
"""Norm at the end over norm at the start. Measured in benchmarks/doctor.py: healthy runs end at 1 or above, sick ones
below 0.4."""

CERTAIN_KEPT = 0.3


def weights_shrinking(evidence: Evidence) -> Finding | None:
    """A norm that has lost a third and more, in a run with decay."""
    norm = evidence.weight_norm
    decay = max((g.weight_decay or 0.0 for u in evidence.made for g in u.groups), default=0.0)
    if len(norm) < 2 * WIDTH or decay <= 0 or norm.values[0] <= 0:
        return None
    kept = norm.part(0.95, 1.0).median / float(norm.values[0])
    if kept >= KEPT:
        return None
    facts = [
        Fact(
            f"the weight norm fell from {norm.values[0]:.3g} to {norm.part(0.95, 1.0).median:.3g}, {kept:.0%} of it",
            kept,
            KEPT,
            norm.span,
        ),
        Fact(f"weight_decay is {decay:g}", decay),
    ]
    if evidence.rule in {"adamw", "lion"}:
        alone = math.prod(1 - (g.lr or 0.0) * (g.weight_decay or 0.0) for u in evidence.made for g in u.groups[:1])
        facts.append(Fact(f"decay alone would have left {alone:.0%}", alone))
    return Finding(CAUSE, grade(kept, limit=KEPT, certain=CERTAIN_KEPT), tuple(facts))

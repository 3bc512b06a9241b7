"""Weights that a second optimizer steps as well."""

from __future__ import annotations

from gradstep.monitor.doctor.evidence import Evidence
from gradstep.monitor.doctor.finding import Cause, Fact, Finding, Severity

CAUSE = Cause(
    "stepped_twice",
    "two optimizers step the same weights",
    Severity.CRITICAL,
    "Between two steps of this optimizer another one has stepped some of the same weights: each undoes or doubles "
    "what the other does, and neither's learning rate means what it says.",
    "Give every parameter to exactly one optimizer: split model.parameters() between them, or drop the second one "
    "and use parameter groups.",
    frozenset(
        {
            "lr_too_high",
            "gradients_exploding",
            "spike",
            "weights_growing",
            "weights_shrinking",
            "not_finite",
        }
    ),
    frozenset(
        {
            "loss",
            "weight norm",
        }
    ),
)


SHARE = 0.5
"""Of the updates: one optimizer that follows another, or takes over for a while, is meant. A choice."""

LEAST_UPDATES = 10


def stepped_twice(evidence: Evidence) -> Finding | None:
    """Another optimizer that holds some of the same parameters stepped between most updates."""
    others = [u for u in evidence.made if u.other_optimizer]
    if len(others) < LEAST_UPDATES or len(others) < SHARE * len(evidence.made):
        return None
    names = ", ".join(sorted({u.other_optimizer for u in others}))
    text = (
        f"{names} stepped some of {evidence.header.optimizer}'s parameters between {len(others):,} of "
        f"{len(evidence.made):,} updates"
    )
    return Finding(CAUSE, 1.0, (Fact(text, float(len(others)), 0.0, (others[0].update, others[-1].update)),))

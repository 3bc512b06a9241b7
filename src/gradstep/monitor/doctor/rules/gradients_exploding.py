"""Gradients that grow on their way back through the network."""

from __future__ import annotations

from gradstep.monitor.doctor.evidence import Evidence
from gradstep.monitor.doctor.finding import Cause, Fact, Finding, Severity, grade

CAUSE = Cause(
    "gradients_exploding",
    "gradients exploding",
    Severity.CRITICAL,
    "A gradient norm of 0.1 to 10 is usual, over 100 alarming: some factor, repeated over layers or time steps, "
    "is above 1. (A loss that is summed, not averaged, looks the same.)",
    "Clip the gradient norm (max_grad_norm=1.0), and mend the cause: smaller initial weights, normalisation, a "
    "residual path, shorter sequences; average the loss.",
    frozenset({"not_finite"}),
    frozenset({"loss", "gradient norm"}),
)

ALARMING = 100.0
"""The norm as a median of 5 updates. Source: common advice for monitoring fine-tuning, healthy 0.1 to 10, over 100
alarming. Measured in benchmarks/doctor.py: healthy runs stay below 10."""

CERTAIN = 1e4

SHORT = 5

LEAST_ROWS = 3
"""Records over the limit: a single one, where not every update was recorded, may be one bad batch. A choice."""


def gradients_exploding(evidence: Evidence) -> Finding | None:
    """A gradient norm, before clipping, above 100 for several updates."""
    norm = evidence.grad_norm.smooth(SHORT)
    over = norm.where(norm.values >= ALARMING)
    if len(over) < LEAST_ROWS:
        return None
    at, largest = norm.highest
    facts = (
        Fact(f"the gradient norm reached {largest:.3g} (usual: 0.1 to 10)", largest, ALARMING, (at, at)),
        Fact(
            f"it was over {ALARMING:g} in {len(over) / len(norm):.0%} of the updates",
            len(over) / len(norm),
            0.0,
            over.span,
        ),
    )
    return Finding(CAUSE, grade(largest, limit=ALARMING, certain=CERTAIN), facts)

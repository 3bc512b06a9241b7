"""Gradients that pile up from update to update, since nobody clears them."""

from __future__ import annotations

from gradstep.monitor.doctor.evidence import Evidence
from gradstep.monitor.doctor.finding import Cause, Fact, Finding, Severity

CAUSE = Cause(
    "gradients_not_cleared",
    "gradients are never cleared",
    Severity.CRITICAL,
    "backward() adds to the gradients that are there. Without zero_grad() each update uses the sum of all batches "
    "so far: a momentum that forgets nothing, so that the loss swings or runs away.",
    "Call optimizer.zero_grad() once per update, before backward() or after step(); to accumulate micro-batches "
    "on purpose, clear after every step, or let gradstep.Stepper do both.",
    frozenset(
        {
            "lr_too_high",
            "lr_too_low",
            "gradients_exploding",
            "gradients_vanished",
            "spike",
            "weights_growing",
            "not_finite",
            "loss_scale_collapse",
        }
    ),
    frozenset(
        {
            "loss",
            "gradient norm",
            "weight norm",
            "update over weights",
        }
    ),
)


SHARE = 0.5
"""Of the updates: who clears once per epoch clears too seldom, who forgets it once does little harm. A choice."""

LEAST_UPDATES = 3


def gradients_not_cleared(evidence: Evidence) -> Finding | None:
    """Gradients of a step that were still there in every backward pass before the next step: seen, not inferred."""
    seen = [u for u in evidence.made if u.uncleared is not None]
    left = [u.update for u in seen if u.uncleared]
    if len(left) < LEAST_UPDATES or len(left) < SHARE * len(seen):
        return None
    share = len(left) / len(seen)
    text = f"in {len(left):,} of {len(seen):,} updates backward() added to the gradients of the step before"
    facts = [Fact(text, share, SHARE, (left[0], left[-1]))]
    norm = evidence.grad_norm
    if len(norm):
        at, largest = norm.highest
        text = f"the gradient norm was {norm.values[0]:.3g} in the first update, and {largest:.3g} at its largest"
        facts.append(Fact(text, largest, updates=(at, at)))
    return Finding(CAUSE, share, tuple(facts))

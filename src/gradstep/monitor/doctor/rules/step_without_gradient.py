"""Steps that find no gradient."""

from __future__ import annotations

from gradstep.monitor.doctor.evidence import Evidence
from gradstep.monitor.doctor.finding import Cause, Fact, Finding, Severity

CAUSE = Cause(
    "step_without_gradient",
    "step() finds no gradients",
    Severity.CRITICAL,
    "An update without a gradient changes nothing, or only decays the weights. step() comes before backward(), or "
    "zero_grad() between the two, or backward() is missing, or the optimizer holds other tensors than the model "
    "that is trained.",
    "Keep the order zero_grad(), backward(), step(); make the optimizer after the model has been moved, wrapped "
    "or replaced.",
    frozenset(
        {
            "no_gradient",
            "frozen_but_decayed",
            "gradients_vanished",
            "lr_too_low",
            "lost_to_rounding",
            "weights_shrinking",
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


SHARE = 0.9
"""Of the updates. A choice."""

LEAST_UPDATES = 10


def step_without_gradient(evidence: Evidence) -> Finding | None:
    """No gradient, or one that is exactly zero, in nearly all updates; or none in the first, although it had a loss."""
    made = evidence.made
    if len(made) < LEAST_UPDATES:
        return None
    empty = [u for u in made if not u.elements or u.grad_norm == 0]
    if len(empty) >= SHARE * len(made):
        text = f"{len(empty):,} of {len(made):,} updates had no gradient, or one of zero"
        return Finding(CAUSE, 1.0, (Fact(text, len(empty) / len(made), SHARE, (empty[0].update, empty[-1].update)),))
    first = made[0]
    if first.update == 0 and first.elements == 0 and first.loss is not None and made[1].elements:
        text = "the first update had a loss and no gradient; later ones use the gradient of the batch before"
        return Finding(CAUSE, 0.5, (Fact(text, 0.0, updates=(0, 0)),))
    return None

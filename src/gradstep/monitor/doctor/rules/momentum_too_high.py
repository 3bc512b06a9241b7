"""A momentum that forgets nothing."""

from __future__ import annotations

from gradstep.monitor.doctor.evidence import Evidence
from gradstep.monitor.doctor.finding import Cause, Fact, Finding, Severity

CAUSE = Cause(
    "momentum_too_high",
    "momentum of 1 or more",
    Severity.CRITICAL,
    "Each update is the last one times the momentum, plus the gradient. From 1 on nothing is ever forgotten: the "
    "updates add up, above 1 they grow by themselves, and the run diverges whatever the learning rate.",
    "Set momentum (beta1 in Adam and Lion) to 0.9, at most 0.99.",
    frozenset(
        {
            "lr_too_high",
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


LIMIT = 1.0
"""The sum of all powers of the momentum is finite below 1 only."""


def momentum_too_high(evidence: Evidence) -> Finding | None:
    """A momentum, or a beta1, of 1 or more in any update."""
    used = {
        momentum: u.update
        for u in reversed(evidence.made)
        for g in u.groups
        if (momentum := g.betas[0] if g.betas is not None else g.momentum) is not None and momentum >= LIMIT
    }
    facts = [
        Fact(f"momentum is {momentum:g}; usual is 0.9, and it must be below 1", momentum, LIMIT, (update, update))
        for momentum, update in sorted(used.items())
    ]
    return Finding(CAUSE, 1.0, tuple(facts)) if facts else None

"""Adam where AdamW was meant: the decay goes through the gradient."""

from __future__ import annotations

from gradstep.monitor.doctor.evidence import Evidence
from gradstep.monitor.doctor.finding import Cause, Fact, Finding, Severity

CAUSE = Cause(
    "coupled_decay",
    "Adam where AdamW was meant",
    Severity.WARNING,
    "The decay is added to the gradient, so the adaptive rate divides it too: weights with large gradients hardly "
    "decay, weights without gradient shrink at the full learning rate.",
    "Take the decoupled rule (AdamW for Adam; decoupled_weight_decay=True where the rule has it) and choose "
    "weight_decay anew, 0.01 to 0.1; or set weight_decay to 0.",
    frozenset({"weights_shrinking"}),
)

ADAPTIVE = frozenset({"adam", "adamax", "nadam", "radam", "rmsprop", "adagrad", "adadelta"})
"""Rules that divide by a root of squared gradients and add the decay to the gradient unless told otherwise.
Source: Loshchilov & Hutter, "Decoupled Weight Decay Regularization", arXiv:1711.05101, section 2."""


def coupled_decay(evidence: Evidence) -> Finding | None:
    """An adaptive rule with a decay that is not decoupled."""
    if evidence.rule not in ADAPTIVE:
        return None
    coupled = [
        (group.name, decay)
        for group, decay in zip(evidence.header.groups, evidence.decays)
        if decay > 0 and not group.settings.get("decoupled_weight_decay", False)
    ]
    if not coupled:
        return None
    facts = [
        Fact(f"{evidence.header.optimizer} has weight_decay={decay:g} in {name}, added to the gradient", decay)
        for name, decay in coupled
    ]
    return Finding(CAUSE, 1.0, tuple(facts))

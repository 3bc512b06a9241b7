"""Parameters that the optimizer has never heard of."""

from __future__ import annotations

from gradstep.monitor.doctor.evidence import Evidence
from gradstep.monitor.doctor.finding import Cause, Fact, Finding, Severity
from gradstep.monitor.doctor.words import listed

CAUSE = Cause(
    "not_registered",
    "parameters not in the optimizer",
    Severity.CRITICAL,
    "These tensors want a gradient and are in no parameter group: they keep their starting values.",
    "Make the optimizer from all of model.parameters(), and after the last layer was added or replaced; or freeze "
    "them with requires_grad_(False), so that they cost no gradient.",
    frozenset({"lr_too_low"}),
)


def not_registered(evidence: Evidence) -> Finding | None:
    """Trainable parameters of the model that no group holds; needs no threshold."""
    lost = [p for p in evidence.header.unregistered if p.requires_grad]
    if not lost:
        return None
    elements = sum(p.elements for p in lost)
    trained = sum(p.elements for p in evidence.header.parameters)
    share = elements / (elements + trained)
    text = f"{listed(p.name for p in lost)}: {elements:,} numbers, {share:.0%} of the model, are in no parameter group"
    return Finding(CAUSE, 1.0, (Fact(text, share),))

"""Parameters that never get a gradient."""

from __future__ import annotations

from gradstep.monitor.doctor.evidence import Evidence
from gradstep.monitor.doctor.finding import Cause, Fact, Finding, Severity
from gradstep.monitor.doctor.words import listed

CAUSE = Cause(
    "no_gradient",
    "parameters that never get a gradient",
    Severity.CRITICAL,
    "These tensors are in the optimizer and the loss does not depend on them: they keep their starting values.",
    "Look for a detach(), a no_grad(), an in-place copy or a layer that forward() does not use; if they are frozen "
    "on purpose, say so with requires_grad_(False).",
    frozenset({"lr_too_low"}),
)

LEAST_UPDATES = 10
"""Fewer say nothing about branches that are only sometimes taken. A choice."""


def no_gradient(evidence: Evidence) -> Finding | None:
    """Registered, trainable parameters without a gradient in any of the updates; per group where that is all there
    is.
    """
    if len(evidence.made) < LEAST_UPDATES or evidence.span is None:
        return None
    if evidence.has_parameters:
        seen = {int(i) for u in evidence.made if u.parameters is not None for i in u.parameters.index}
        lost = [p for i, p in enumerate(evidence.header.parameters) if i not in seen and p.requires_grad]
        if not lost:
            return None
        names, elements = listed(p.name for p in lost), sum(p.elements for p in lost)
    else:
        wanted = sum(p.elements for p in evidence.header.parameters if p.requires_grad)
        elements = wanted - max(u.elements for u in evidence.made)
        if elements <= 0 or not any(u.elements for u in evidence.made):
            return None
        names = "parameters (record them singly to see which)"
    text = f"{names}: {elements:,} numbers had no gradient in any update"
    return Finding(CAUSE, 1.0, (Fact(text, elements, 0, evidence.span),))

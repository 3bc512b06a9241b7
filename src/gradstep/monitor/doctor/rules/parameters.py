"""Rules about parameters that do not learn."""

from __future__ import annotations

import numpy as np

from gradstep.monitor.doctor.evidence import Evidence
from gradstep.monitor.doctor.finding import Cause, Fact, Finding, Severity, listed

NOT_REGISTERED = Cause(
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
    return Finding(NOT_REGISTERED, 1.0, (Fact(text, share),))


NO_GRADIENT = Cause(
    "no_gradient",
    "parameters that never get a gradient",
    Severity.CRITICAL,
    "These tensors are in the optimizer and the loss does not depend on them: they keep their starting values.",
    "Look for a detach(), a no_grad(), an in-place copy or a layer that forward() does not use; if they are frozen "
    "on purpose, say so with requires_grad_(False).",
    frozenset({"lr_too_low"}),
)

NO_GRADIENT_UPDATES = 10
"""Fewer say nothing about branches that are only sometimes taken. A choice."""


def no_gradient(evidence: Evidence) -> Finding | None:
    """Registered, trainable parameters without a gradient in any of the updates; per group where that is all there
    is.
    """
    if len(evidence.made) < NO_GRADIENT_UPDATES or evidence.span is None:
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
    return Finding(NO_GRADIENT, 1.0, (Fact(text, elements, 0, evidence.span),))


FROZEN_BUT_DECAYED = Cause(
    "frozen_but_decayed",
    "frozen, yet decayed",
    Severity.CRITICAL,
    "The gradient is zero and the decay is not: what was to be kept shrinks a little with every update.",
    "Freeze with requires_grad_(False) and clear gradients to None (zero_grad's default), so that the optimizer "
    "passes over the tensor; or give it a group with weight_decay=0.",
    frozenset({"weights_shrinking"}),
)

FROZEN_SHARE = 0.9
"""Of the updates in which the gradient is exactly zero: a dead unit or an unused row leaves a whole tensor alive. A
choice."""

FROZEN_UPDATES = 10


def frozen_but_decayed(evidence: Evidence) -> Finding | None:
    """Tensors whose gradient is zero nearly always and whose norm has fallen, in groups with decay."""
    if not evidence.has_parameters:
        return None
    updates, gradients = evidence.of_parameters("grad_norm")
    _, weights = evidence.of_parameters("weight_norm")
    facts, names = [], []
    for column, parameter in enumerate(evidence.header.parameters):
        there = ~np.isnan(gradients[:, column])
        if there.sum() < FROZEN_UPDATES or evidence.decay_of(parameter) <= 0:
            continue
        gradient, weight = gradients[there, column], weights[there, column]
        if np.mean(gradient == 0) < FROZEN_SHARE or not weight[-1] < weight[0]:
            continue
        names.append(parameter.name)
        kept = float(weight[-1] / weight[0])
        text = f"{parameter.name}: gradient 0 in {np.mean(gradient == 0):.0%} of the updates, norm down to {kept:.3%}"
        facts.append(Fact(text, kept, 1.0, (int(updates[there][0]), int(updates[there][-1]))))
    if not facts:
        return None
    if len(facts) > 3:
        facts = [Fact(f"gradient 0 and norm falling: {listed(names)}", float(len(names)), 0.0, evidence.span)]
    return Finding(FROZEN_BUT_DECAYED, 1.0, tuple(facts))

"""Rules about parameters that do not learn."""

from __future__ import annotations

import numpy as np

from gradstep.monitor.doctor.evidence import Evidence
from gradstep.monitor.doctor.finding import Cause, Fact, Finding, Severity, join_names

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
    """Find trainable parameters of the model that no group holds; needs no threshold."""
    missing = [p for p in evidence.header.unregistered if p.requires_grad]
    if not missing:
        return None
    elements = sum(p.elements for p in missing)
    trained = sum(p.elements for p in evidence.header.parameters)
    share = elements / (elements + trained)
    names = join_names(p.name for p in missing)
    text = f"{names}: {elements:,} numbers, {share:.0%} of the model, are in no parameter group"
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
"""Least number of updates: in fewer, a branch that is used only sometimes may be unused. A choice."""


def no_gradient(evidence: Evidence) -> Finding | None:
    """Find trainable parameters in the optimizer without a gradient in any update; by group without single numbers."""
    if len(evidence.made) < NO_GRADIENT_UPDATES or evidence.span is None:
        return None
    if evidence.has_parameters:
        seen = {int(i) for u in evidence.made if u.parameters is not None for i in u.parameters.index}
        unused = [p for i, p in enumerate(evidence.header.parameters) if i not in seen and p.requires_grad]
        if not unused:
            return None
        names, elements = join_names(p.name for p in unused), sum(p.elements for p in unused)
    else:
        trainable = sum(p.elements for p in evidence.header.parameters if p.requires_grad)
        elements = trainable - max(u.elements for u in evidence.made)
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
"""Least share of updates with a gradient of exactly zero, in the whole tensor: dead units or unused rows do not count.
A choice."""

FROZEN_UPDATES = 10


def frozen_but_decayed(evidence: Evidence) -> Finding | None:
    """Find tensors in groups with decay that have nearly always a gradient of zero, and a norm that has fallen."""
    if not evidence.has_parameters:
        return None
    updates, gradients = evidence.of_parameters("grad_norm")
    _, weights = evidence.of_parameters("weight_norm")
    facts, names = [], []
    for column, parameter in enumerate(evidence.header.parameters):
        present = ~np.isnan(gradients[:, column])
        if present.sum() < FROZEN_UPDATES or evidence.decay_of(parameter) <= 0:
            continue
        gradient, weight = gradients[present, column], weights[present, column]
        if np.mean(gradient == 0) < FROZEN_SHARE or not weight[-1] < weight[0]:
            continue
        names.append(parameter.name)
        rest = float(weight[-1] / weight[0])
        text = f"{parameter.name}: gradient 0 in {np.mean(gradient == 0):.0%} of the updates, norm down to {rest:.3%}"
        facts.append(Fact(text, rest, 1.0, (int(updates[present][0]), int(updates[present][-1]))))
    if not facts:
        return None
    if len(facts) > 3:
        facts = [Fact(f"gradient 0 and norm falling: {join_names(names)}", float(len(names)), 0.0, evidence.span)]
    return Finding(FROZEN_BUT_DECAYED, 1.0, tuple(facts))

"""Parameters that are frozen by a gradient of zero, and decay all the same."""

from __future__ import annotations

import numpy as np

from gradstep.monitor.doctor.evidence import Evidence
from gradstep.monitor.doctor.finding import Cause, Fact, Finding, Severity
from gradstep.monitor.doctor.words import listed

CAUSE = Cause(
    "frozen_but_decayed",
    "frozen, yet decayed",
    Severity.CRITICAL,
    "The gradient is zero and the decay is not: what was to be kept shrinks a little with every update.",
    "Freeze with requires_grad_(False) and clear gradients to None (zero_grad's default), so that the optimizer "
    "passes over the tensor; or give it a group with weight_decay=0.",
    frozenset({"weights_shrinking"}),
)

SHARE = 0.9
"""Of the updates in which the gradient is exactly zero: a dead unit or an unused row leaves a whole tensor alive. A
choice."""

LEAST_UPDATES = 10


def frozen_but_decayed(evidence: Evidence) -> Finding | None:
    """Tensors whose gradient is zero nearly always and whose norm has fallen, in groups with decay."""
    if not evidence.has_parameters:
        return None
    updates, gradients = evidence.of_parameters("grad_norm")
    _, weights = evidence.of_parameters("weight_norm")
    facts, names = [], []
    for column, parameter in enumerate(evidence.header.parameters):
        there = ~np.isnan(gradients[:, column])
        if there.sum() < LEAST_UPDATES or evidence.decay_of(parameter) <= 0:
            continue
        gradient, weight = gradients[there, column], weights[there, column]
        if np.mean(gradient == 0) < SHARE or not weight[-1] < weight[0]:
            continue
        names.append(parameter.name)
        kept = float(weight[-1] / weight[0])
        text = f"{parameter.name}: gradient 0 in {np.mean(gradient == 0):.0%} of the updates, norm down to {kept:.3%}"
        facts.append(Fact(text, kept, 1.0, (int(updates[there][0]), int(updates[there][-1]))))
    if not facts:
        return None
    if len(facts) > 3:
        facts = [Fact(f"gradient 0 and norm falling: {listed(names)}", float(len(names)), 0.0, evidence.span)]
    return Finding(CAUSE, 1.0, tuple(facts))

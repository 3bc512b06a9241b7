"""A learning rate that moves nothing."""

from __future__ import annotations

import numpy as np

from gradstep.monitor.doctor.evidence import WIDTH, Evidence
from gradstep.monitor.doctor.finding import Cause, Fact, Finding, Severity, grade
from gradstep.monitor.doctor.words import fell

CAUSE = Cause(
    "lr_too_low",
    "learning rate too low",
    Severity.WARNING,
    "There is a gradient, and updates are so small that the weights will not have gone anywhere by the end; the "
    "loss is flat or creeps.",
    "Multiply the learning rate by 10 until the loss falls visibly, or let gradstep.lr_find suggest one; look at "
    "the unit and at a schedule that multiplies it.",
    spoils=frozenset({"loss", "update over weights"}),
)

RATIO = 3e-5
"""Update over weights that nine of ten updates stay below: a thirtieth of the usual 1e-3 (Karpathy, CS231n, "Ratio of
weights:updates"). Measured in benchmarks/doctor.py: fine-tuning at 2e-5 has 1.1e-4, sick runs 1.1e-5 and less."""

CERTAIN_RATIO = 3e-7

FALL = 0.1
"""The share of its start that a loss has lost when it is not flat. A choice."""

LEAST_GRADIENT = 1e-6
"""A smaller gradient is the cause, not the learning rate, where the rule does not divide by it. A choice."""


def lr_too_low(evidence: Evidence) -> Finding | None:
    """Very small updates, a gradient, and a loss that is nearly where it was."""
    ratio = evidence.ratio
    if len(ratio) < 2 * WIDTH or evidence.fall is None or evidence.span is None:
        return None
    high = float(np.quantile(ratio.values, 0.9))
    if not 0 < high < RATIO or evidence.fall > FALL or evidence.grad_norm.median < LEAST_GRADIENT:
        return None
    total = float(ratio.values.sum())
    facts = (
        Fact(f"nine of ten updates were below {high:.1e} of the weights (usual: about 1e-3)", high, RATIO, ratio.span),
        Fact(f"all {len(ratio):,} of them together can have moved the weights by {total:.2%} at most", total),
        Fact(f"the loss {fell(evidence.fall)}", evidence.fall, FALL, evidence.loss.span),
    )
    return Finding(CAUSE, grade(high, limit=RATIO, certain=CERTAIN_RATIO), facts)

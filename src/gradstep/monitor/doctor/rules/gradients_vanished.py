"""Gradients that are lost on their way back through the network."""

from __future__ import annotations

import numpy as np

from gradstep.monitor.doctor.evidence import WIDTH, Evidence
from gradstep.monitor.doctor.finding import Cause, Fact, Finding, Severity, grade
from gradstep.monitor.doctor.words import fell, listed

CAUSE = Cause(
    "gradients_vanished",
    "gradients vanished",
    Severity.CRITICAL,
    "The gradient of some layers is nothing beside that of others, or of all: units are saturated or dead, or the "
    "weights too small, and the loss does not move.",
    "ReLU or GELU for sigmoid and tanh, initial weights that keep the variance (Glorot, He), normalisation, "
    "residual paths; for dead units a smaller learning rate.",
    frozenset({"lr_too_low"}),
    frozenset({"loss", "gradient norm"}),
)

NORM = 1e-5
"""The global norm as a median: ten thousand times below the healthy 0.1 (see gradients_exploding). A choice."""

SHARE = 1e-4
"""Median norm of one matrix over that of the largest. Glorot & Bengio, "Understanding the difficulty of training deep
feedforward neural networks", 2010, figure 7, show how it falls with depth. Measured in benchmarks/doctor.py: 0.09 or
more in healthy runs, 4e-7 and less in sick ones."""

FALL = 0.3
"""A loss that has lost more of its start is not stuck. A choice."""


def gradients_vanished(evidence: Evidence) -> Finding | None:
    """A loss that is stuck, and gradients that are nearly zero: of whole matrices beside others, or all together."""
    norm = evidence.grad_norm
    if len(norm) < 2 * WIDTH or evidence.fall is None or evidence.fall > FALL:
        return None
    facts, score = [], 0.0
    if norm.median < NORM:
        facts.append(Fact(f"the gradient norm is {norm.median:.1e} (usual: 0.1 to 10)", norm.median, NORM, norm.span))
        score = grade(norm.median, limit=NORM, certain=NORM**2)
    medians = matrices(evidence)
    if medians and (largest := max(medians.values())) > 0:
        lost = {name: value / largest for name, value in medians.items() if value < SHARE * largest}
        if lost:
            least = min(lost.values())
            text = f"gradients of {listed(lost)} are {least:.1e} of the largest matrix's"
            facts.append(Fact(text, least, SHARE, norm.span))
            score = max(score, grade(least, limit=SHARE, certain=SHARE**2))
    if not facts:
        return None
    facts.append(Fact(f"the loss {fell(evidence.fall)}", evidence.fall, FALL, evidence.loss.span))
    return Finding(CAUSE, score, tuple(facts))


def matrices(evidence: Evidence) -> dict[str, float]:
    """The median gradient norm of every parameter of two or more dimensions that had one."""
    if not evidence.has_parameters:
        return {}
    _, norms = evidence.of_parameters("grad_norm")
    columns = ((p.name, norms[:, i]) for i, p in enumerate(evidence.header.parameters) if len(p.shape) >= 2)
    finite = ((name, column[np.isfinite(column)]) for name, column in columns)
    return {name: float(np.median(column)) for name, column in finite if len(column)}

"""Updates too small for the weights' own precision."""

from __future__ import annotations

from gradstep.monitor.doctor.evidence import Evidence
from gradstep.monitor.doctor.finding import Cause, Fact, Finding, Severity
from gradstep.monitor.doctor.words import fell

CAUSE = Cause(
    "lost_to_rounding",
    "updates lost to rounding",
    Severity.WARNING,
    "The weights are kept in half precision and most updates are smaller than half the distance to the next "
    "number: they are rounded away, update after update.",
    "Keep the weights in float32 and compute in bf16 (autocast), or give the optimizer rounding='stochastic', "
    "'kahan' or 'master'.",
    frozenset({"lr_too_low", "gradients_vanished"}),
    frozenset({"loss", "update over weights"}),
)

HALF = frozenset({"bfloat16", "float16"})

SHARE = 0.5
"""Of the elements that had a gradient and did not move, as the median over the run. Measured in benchmarks/doctor.py:
healthy runs in float32 stay below 0.01."""

FALL = 0.25
"""The share of its start that the loss has lost when the updates that are left suffice. It also keeps quiet about
stochastic rounding by other libraries, under which most elements stay in any one update and move on average;
gradstep's own counts as moved. Measured in benchmarks/doctor.py: 0.1 and less in sick runs."""


def lost_to_rounding(evidence: Evidence) -> Finding | None:
    """Half-precision weights of which most are not moved by their gradients, rounded to nearest."""
    half = [p for p in evidence.header.parameters if p.dtype in HALF]
    if not half:
        return None
    unmoved = evidence.unmoved_share
    if not len(unmoved) or unmoved.median < SHARE or evidence.fall is None or evidence.fall > FALL:
        return None
    kinds = ", ".join(sorted({p.dtype for p in half}))
    text = f"{unmoved.median:.0%} of the elements were not moved by their gradient; the weights are {kinds}"
    facts = (
        Fact(text, unmoved.median, SHARE, unmoved.span),
        Fact(f"the loss {fell(evidence.fall)}", evidence.fall, FALL, evidence.loss.span),
    )
    return Finding(CAUSE, unmoved.median, facts)

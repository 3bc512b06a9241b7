"""Updates too small for the weights' own precision."""

from __future__ import annotations

from gradstep.monitor.doctor.evidence import Evidence
from gradstep.monitor.doctor.finding import Cause, Fact, Finding, Severity

CAUSE = Cause(
    "lost_to_rounding",
    "updates lost to rounding",
    Severity.WARNING,
    "The weights are kept in half precision and most updates are smaller than half the distance to the next number: they are "
    "rounded away, update after update.",
    "Keep the weights in float32 and compute in bf16 (autocast), or give the optimizer rounding='stochastic', 'kahan' or 'master'.",
    frozenset({"lr_too_low", "gradients_vanished"}),
)

HALF = frozenset({"bfloat16", "float16"})

SHARE = 0.5
"""Of the elements that had a gradient and did not move, as the median over the run. Measured in benchmarks/doctor.py: healthy
runs in float32 stay below 0.01."""

COMPENSATED = frozenset({"stochastic", "kahan", "master"})
"""Roundings of gradstep in which an element that stays is no loss: it moves on average, or later."""


def lost_to_rounding(evidence: Evidence) -> Finding | None:
    """Half-precision weights of which most are not moved by their gradients, rounded to nearest."""
    half = [p for p in evidence.header.parameters if p.dtype in HALF]
    if not half or any(rounding in COMPENSATED for _, rounding in evidence.settings("rounding")):
        return None
    unmoved = evidence.unmoved_share
    if not len(unmoved) or not unmoved.median >= SHARE:
        return None
    kinds = ", ".join(sorted({p.dtype for p in half}))
    text = f"{unmoved.median:.0%} of the elements with a gradient did not move, with weights in {kinds} (usual: below {SHARE:.0%})"
    return Finding(CAUSE, unmoved.median, (Fact(text, unmoved.median, SHARE, unmoved.span),))

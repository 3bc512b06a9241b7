"""AdamW without decay."""

from __future__ import annotations

from gradstep.monitor.doctor.evidence import Evidence
from gradstep.monitor.doctor.finding import Cause, Fact, Finding, Severity

CAUSE = Cause(
    "no_decay",
    "no weight decay",
    Severity.HINT,
    "AdamW without decay is Adam: nothing holds the weights, which cost generalisation in long trainings.",
    "Set weight_decay to 0.01 to 0.1 for matrices (gradstep.param_groups leaves norms and biases out), unless this "
    "is meant, as with low-rank adapters and short fine-tuning.",
)

DECOUPLED = frozenset({"adamw"})
"""Rules whose only difference from another one is their decay (Loshchilov & Hutter, arXiv:1711.05101, algorithm 2)."""


def no_decay(evidence: Evidence) -> Finding | None:
    """A rule that is taken for its decay, with a decay of 0 in every group."""
    decays = [g.weight_decay for update in evidence.made for g in update.groups if g.weight_decay is not None]
    if evidence.rule not in DECOUPLED or any(decays) or any(evidence.decays):
        return None
    return Finding(CAUSE, 0.5, (Fact(f"{evidence.header.optimizer} has weight_decay=0 in every group", 0.0),))

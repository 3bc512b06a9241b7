"""A loss scale that falls and falls."""

from __future__ import annotations

from itertools import groupby

from gradstep.monitor.doctor.evidence import Evidence
from gradstep.monitor.doctor.finding import Cause, Fact, Finding, Severity

CAUSE = Cause(
    "loss_scale_collapse",
    "the loss scale has collapsed",
    Severity.CRITICAL,
    "Gradients overflow fp16 at every scale, so the values themselves are out of its range (65,504), not only "
    "their scaled gradients; updates are skipped.",
    "Train in bf16, which has the range of float32; or find the activation that overflows (unnormalised inputs, "
    "attention scores, a loss that is summed) and compute it in float32.",
    frozenset({"not_finite", "gradients_exploding", "lr_too_low"}),
    frozenset({"loss", "gradient norm"}),
)

LEAST_SCALE = 1.0
"""Below it the scale makes gradients smaller, the contrary of its purpose (Micikevicius et al., arXiv:1710.03740,
section 3.2). Trainers stop there or not far below."""

RUN_OF_SKIPS = 10
"""Skipped updates in a row: from torch's first scale of 65,536 ten halvings lead to 64, lower than a scale that is
found usually is. A choice."""


def loss_scale_collapse(evidence: Evidence) -> Finding | None:
    """A scale below 1, or many skipped updates in a row."""
    scale = evidence.loss_scale
    if not len(scale):
        return None
    facts = []
    if scale.values.min() < LEAST_SCALE:
        low = scale.where(scale.values < LEAST_SCALE)
        text = f"the loss scale fell from {scale.values[0]:g} to {scale.values.min():.3g}"
        facts.append(Fact(text, float(scale.values.min()), LEAST_SCALE, low.span))
    skips = [list(group) for skipped, group in groupby(evidence.run.updates, lambda u: bool(u.skipped)) if skipped]
    longest = max(skips, key=len, default=[])
    if len(longest) >= RUN_OF_SKIPS:
        text = f"{len(longest)} updates in a row were skipped"
        facts.append(Fact(text, len(longest), RUN_OF_SKIPS, (longest[0].update, longest[-1].update)))
    return Finding(CAUSE, 0.5 + 0.25 * len(facts), tuple(facts)) if facts else None

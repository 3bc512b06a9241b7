"""A loss or a gradient that is not a number."""

from __future__ import annotations

import math

from gradstep.monitor.doctor.evidence import Evidence
from gradstep.monitor.doctor.finding import Cause, Fact, Finding, Severity

CAUSE = Cause(
    "not_finite",
    "loss or gradients that are not finite",
    Severity.CRITICAL,
    "From here on nothing is learnt: updates are skipped, or have made the weights NaN.",
    "Look at the batch of that update, and for a logarithm or a root of 0, a division by 0, or a mask that leaves "
    "nothing; torch.autograd.set_detect_anomaly(True) names the operation.",
    spoils=frozenset({"loss", "gradient norm", "weight norm", "update over weights"}),
)


def not_finite(evidence: Evidence) -> Finding | None:
    """Updates with a loss or a gradient that is not finite; in fp16, where skipping is how the scale is found, a loss
    only.
    """
    fp16 = len(evidence.loss_scale) > 0
    facts = []
    losses = [u.update for u in evidence.run.updates if u.loss is not None and not math.isfinite(u.loss)]
    if losses:
        text = f"the loss is not finite in {len(losses):,} of {len(evidence.run.updates):,} updates"
        facts.append(Fact(text, float(len(losses)), 0.0, (losses[0], losses[-1])))
    bad = [u for u in evidence.run.updates if u.non_finite or u.culprit is not None]
    if bad and not fp16:
        where = next((f", first in {u.culprit}" for u in bad if u.culprit), "")
        text = f"gradients are not finite in {len(bad):,} of {len(evidence.run.updates):,} updates{where}"
        facts.append(Fact(text, float(len(bad)), 0.0, (bad[0].update, bad[-1].update)))
    return Finding(CAUSE, 1.0, tuple(facts)) if facts else None

"""Rules about number formats: values that are not finite, rounding, and the loss scale of float16."""

import math
from itertools import groupby

from gradstep.monitor.doctor.evidence import Evidence
from gradstep.monitor.doctor.finding import EVERY_READING, Fact, Signs, describe_fall, finds


@finds(spoils=EVERY_READING)
def not_finite(evidence: Evidence) -> Signs:
    """Find updates with a loss or gradient that is not finite; in float16, where updates are skipped, a loss only."""
    is_scaled = len(evidence.loss_scale) > 0
    facts = []
    losses = [u.update for u in evidence.run.updates if u.loss is not None and not math.isfinite(u.loss)]
    if losses:
        text = f"the loss is not finite in {len(losses):,} of {len(evidence.run.updates):,} updates"
        facts.append(Fact(text, float(len(losses)), 0.0, (losses[0], losses[-1])))
    bad = [u for u in evidence.run.updates if u.non_finite or u.culprit is not None]
    if bad and not is_scaled:
        where = next((f", first in {u.culprit}" for u in bad if u.culprit), "")
        text = f"gradients are not finite in {len(bad):,} of {len(evidence.run.updates):,} updates{where}"
        facts.append(Fact(text, float(len(bad)), 0.0, (bad[0].update, bad[-1].update)))
    return 1.0, facts


HALF_PRECISION = frozenset({"bfloat16", "float16"})

UNMOVED_SHARE = 0.5
"""Least median share of elements that had a gradient and did not change. Measured in benchmarks/doctor.py: healthy runs
in float32 stay below 0.01."""

UNMOVED_FALL = 0.25
"""A loss that fell by more than this share of its start learns from the remaining updates. This also excludes
stochastic rounding by other libraries, with which most elements stay in a single update and change on average;
gradstep's own counts as a change. Measured in benchmarks/doctor.py: 0.1 and less in sick runs."""


@finds(explains={"lr_too_low", "gradients_vanished"}, spoils={"loss", "update over weights"})
def lost_to_rounding(evidence: Evidence) -> Signs:
    """Find half-precision weights that are rounded to nearest and mostly not changed by their gradients."""
    half = [p for p in evidence.header.parameters if p.dtype in HALF_PRECISION]
    if not half:
        return None
    unmoved = evidence.unmoved_share
    if not len(unmoved) or unmoved.median < UNMOVED_SHARE or evidence.fall is None or evidence.fall > UNMOVED_FALL:
        return None
    kinds = ", ".join(sorted({p.dtype for p in half}))
    text = f"{unmoved.median:.0%} of the elements were not moved by their gradient; the weights are {kinds}"
    facts = (
        Fact(text, unmoved.median, UNMOVED_SHARE, unmoved.span),
        Fact(f"the loss {describe_fall(evidence.fall)}", evidence.fall, UNMOVED_FALL, evidence.loss.span),
    )
    return unmoved.median, facts


LEAST_SCALE = 1.0
"""Limit of the loss scale: below 1 it makes gradients smaller, against its purpose (Micikevicius et al.,
arXiv:1710.03740, section 3.2). Trainers stop there or not far below."""

SKIPS_IN_A_ROW = 10
"""Least number of skipped updates in a row: from torch's first scale of 65,536 ten halvings lead to 64, which is lower
than a usual scale. A choice."""


@finds(explains={"not_finite", "gradients_exploding", "lr_too_low"}, spoils={"loss", "gradient norm"})
def loss_scale_collapse(evidence: Evidence) -> Signs:
    """Find a loss scale below 1, or many skipped updates in a row."""
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
    if len(longest) >= SKIPS_IN_A_ROW:
        text = f"{len(longest)} updates in a row were skipped"
        facts.append(Fact(text, len(longest), SKIPS_IN_A_ROW, (longest[0].update, longest[-1].update)))
    return 0.5 + 0.25 * len(facts), facts

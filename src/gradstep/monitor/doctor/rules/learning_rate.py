"""Rules about the size of the learning rate."""

from __future__ import annotations

import numpy as np

from gradstep.monitor.doctor.evidence import WIDTH, Evidence, Series
from gradstep.monitor.doctor.finding import EVERY_READING, Cause, Fact, Finding, Severity, fell, grade, part

LR_TOO_HIGH = Cause(
    "lr_too_high",
    "learning rate too high",
    Severity.CRITICAL,
    "Updates of a tenth of the weights, several in a row, undo what was learnt: the loss rises above where it was "
    "and settles high, while the weights have run away.",
    "Divide the learning rate by 10 and look again, or let gradstep.lr_find suggest one; a warmup helps where only "
    "the start is too fast.",
    frozenset({"gradients_exploding", "gradients_vanished", "weights_growing", "not_finite", "loss_scale_collapse"}),
    EVERY_READING,
)

HIGH_RATIO = 0.1
"""Limit of update over weights, as a median of 5 updates: a hundred times the usual 1e-3 (Karpathy, CS231n, "Ratio of
weights:updates"). Measured in benchmarks/doctor.py: healthy runs reach 0.04, sick ones 0.27 and more."""

HIGH_RATIO_CERTAIN = 1.0

RELAPSE = 0.5
"""Limit of the relapse, the share of its gain that the loss gave back. A choice: alone it says little (fine-tuning,
which gains little, reaches 0.54 in benchmarks/doctor.py), so the rule also requires large updates."""

LEAST_GAIN = 0.2
"""Least divisor of a relapse, as a share of the first loss, so that early noise is no relapse. A choice."""

HIGH_FALL = 0.05
"""Least fall of the loss, as a share of its start, of a network that learns: with large updates and less, the network
is dead. A choice."""

LEAST_GAIN_STEPS = 6.0
"""The same least divisor in median steps from one loss to the next. A choice."""

SHORT_WIDTH = 5
"""Number of updates over which a quantity that jumps is smoothed by its median."""


def lr_too_high(evidence: Evidence) -> Finding | None:
    """Find very large updates with a loss that rose far above its lowest value, or that has not fallen at the end."""
    ratio, loss = evidence.ratio.smooth(SHORT_WIDTH), evidence.loss
    if not len(ratio) or len(loss) < 3:
        return None
    at, largest = ratio.highest
    gave_back = relapse(loss)
    back_at, back = gave_back.highest
    nothing_learnt = evidence.fall is not None and evidence.fall < HIGH_FALL
    if largest < HIGH_RATIO or (back < RELAPSE and not nothing_learnt):
        return None
    facts = [
        Fact(
            f"updates were {largest:.2g} of the weights (usual: about 1e-3, at most {HIGH_RATIO:g})",
            largest,
            HIGH_RATIO,
            (at, at),
        ),
    ]
    if back >= RELAPSE:
        facts.append(Fact(gave_back_words(back), back, RELAPSE, (back_at, back_at)))
    if evidence.fall is not None:
        facts.append(Fact(f"over the whole run the loss {fell(evidence.fall)}", evidence.fall, HIGH_FALL, loss.span))
    weights = evidence.weight_norm
    grown_at, grown = weights.highest
    if grown > 2 * weights.values[0]:
        text = f"the weight norm went from {weights.values[0]:.3g} to {grown:.3g}"
        facts.append(Fact(text, grown / float(weights.values[0]), updates=(int(weights.updates[0]), grown_at)))
    return Finding(LR_TOO_HIGH, grade(largest, limit=HIGH_RATIO, certain=HIGH_RATIO_CERTAIN), tuple(facts))


def gave_back_words(back: float) -> str:
    """Say how much of its gain the loss gave back.

    >>> gave_back_words(0.75), gave_back_words(2e13)
    ('the loss gave back 75% of what it had gained', 'the loss rose by 2e+13 times what it had gained')
    """
    share = part(back)
    return (
        f"the loss gave back {share} of what it had gained"
        if back < 10
        else f"the loss rose by {share} what it had gained"
    )


def relapse(loss: Series) -> Series:
    """Return how far the loss lies above its lowest value so far, divided by what it had gained by then."""
    first = float(loss.values[0])
    smooth = loss.smooth(SHORT_WIDTH) if len(loss) >= 3 * SHORT_WIDTH else loss
    lowest = np.minimum(np.minimum.accumulate(smooth.values), first)
    noise = float(np.median(np.abs(np.diff(loss.values)))) if len(loss) >= 3 * SHORT_WIDTH else 0.0
    gained = np.maximum(first - lowest, max(LEAST_GAIN * abs(first), LEAST_GAIN_STEPS * noise))
    return Series(
        smooth.updates, np.divide(smooth.values - lowest, gained, out=np.zeros_like(gained), where=gained > 0)
    )


LR_TOO_LOW = Cause(
    "lr_too_low",
    "learning rate too low",
    Severity.WARNING,
    "There is a gradient, and updates are so small that the weights will not have gone anywhere by the end; the "
    "loss is flat or creeps.",
    "Multiply the learning rate by 10 until the loss falls visibly, or let gradstep.lr_find suggest one; look at "
    "the unit and at a schedule that multiplies it.",
    spoils=frozenset({"loss", "update over weights"}),
)

LOW_RATIO = 3e-5
"""Limit of update over weights for nine of ten updates: a thirtieth of the usual 1e-3 (Karpathy, CS231n, "Ratio of
weights:updates"). Measured in benchmarks/doctor.py: fine-tuning at 2e-5 has 1.1e-4, sick runs 1.1e-5 and less."""

LOW_RATIO_CERTAIN = 3e-7

LOW_FALL = 0.1
"""A loss that fell by more than this share of its start is not flat. A choice."""

LEAST_GRADIENT = 1e-6
"""Below this gradient norm the gradient is the cause and not the learning rate, at least in rules that do not divide by
the gradient. A choice."""


def lr_too_low(evidence: Evidence) -> Finding | None:
    """Find very small updates with a gradient that is not small and a loss that hardly changed."""
    ratio = evidence.ratio
    if len(ratio) < 2 * WIDTH or evidence.fall is None or evidence.span is None:
        return None
    high = float(np.quantile(ratio.values, 0.9))
    if not 0 < high < LOW_RATIO or evidence.fall > LOW_FALL or evidence.grad_norm.median < LEAST_GRADIENT:
        return None
    total = float(ratio.values.sum())
    facts = (
        Fact(
            f"nine of ten updates were below {high:.1e} of the weights (usual: about 1e-3)", high, LOW_RATIO, ratio.span
        ),
        Fact(f"all {len(ratio):,} of them together can have moved the weights by {total:.2%} at most", total),
        Fact(f"the loss {fell(evidence.fall)}", evidence.fall, LOW_FALL, evidence.loss.span),
    )
    return Finding(LR_TOO_LOW, grade(high, limit=LOW_RATIO, certain=LOW_RATIO_CERTAIN), facts)

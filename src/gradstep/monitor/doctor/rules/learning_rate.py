"""Rules about the learning rate: its size, the length of its schedule, and jumps after a resume."""

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from gradstep.engines.statistics import Float64s
from gradstep.monitor.doctor.evidence import MEDIAN_WIDTH, Evidence, Series
from gradstep.monitor.doctor.finding import EVERY_READING, Fact, Signs, describe_fall, finds, grade, show_share

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


@finds(
    explains={"gradients_exploding", "gradients_vanished", "weights_growing", "not_finite", "loss_scale_collapse"},
    spoils=EVERY_READING,
)
def lr_too_high(evidence: Evidence) -> Signs:
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
        text = f"over the whole run the loss {describe_fall(evidence.fall)}"
        facts.append(Fact(text, evidence.fall, HIGH_FALL, loss.span))
    weights = evidence.weight_norm
    grown_at, grown = weights.highest
    if grown > 2 * weights.values[0]:
        text = f"the weight norm went from {weights.values[0]:.3g} to {grown:.3g}"
        facts.append(Fact(text, grown / float(weights.values[0]), updates=(int(weights.updates[0]), grown_at)))
    return grade(largest, limit=HIGH_RATIO, certain=HIGH_RATIO_CERTAIN), facts


def gave_back_words(back: float) -> str:
    """Say how much of its gain the loss gave back.

    >>> gave_back_words(0.75), gave_back_words(2e13)
    ('the loss gave back 75% of what it had gained', 'the loss rose by 2e+13 times what it had gained')
    """
    share = show_share(back)
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


LOW_RATIO = 3e-5
"""Limit of update over weights for nine of ten updates: a thirtieth of the usual 1e-3 (Karpathy, CS231n, "Ratio of
weights:updates"). Measured in benchmarks/doctor.py: fine-tuning at 2e-5 has 1.1e-4, sick runs 1.1e-5 and less."""

LOW_RATIO_CERTAIN = 3e-7

LOW_FALL = 0.1
"""A loss that fell by more than this share of its start is not flat. A choice."""

LEAST_GRADIENT = 1e-6
"""Below this gradient norm the gradient is the cause and not the learning rate, at least in rules that do not divide by
the gradient. A choice."""


@finds(spoils={"loss", "update over weights"})
def lr_too_low(evidence: Evidence) -> Signs:
    """Find very small updates with a gradient that is not small and a loss that hardly changed."""
    ratio = evidence.ratio
    if len(ratio) < 2 * MEDIAN_WIDTH or evidence.fall is None or evidence.span is None:
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
        Fact(f"the loss {describe_fall(evidence.fall)}", evidence.fall, LOW_FALL, evidence.loss.span),
    )
    return grade(high, limit=LOW_RATIO, certain=LOW_RATIO_CERTAIN), facts


ENDED_LR = 1e-6
"""Limit as a share of the highest learning rate. A cosine is below it in its last 0.06% only, a fourth power in its
last 3%: computed from the shapes."""

ENDED_ABOVE_ZERO_LR = 0.5
"""A schedule with an end above 0 counts as ended early if its last value is at most this share of its highest. A
choice."""

ENDED_SHARE = 0.1
"""Least share of updates after the end. A choice: a tenth of the compute."""

LEAST_UPDATES = 10


@finds(explains={"lr_too_low", "lost_to_rounding"})
def schedule_ended_early(evidence: Evidence) -> Signs:
    """Find a last tenth or more with a learning rate near 0, or at the last value of a schedule of known length."""
    lr, last = evidence.lr, len(evidence.lr) - 1
    if last + 1 < LEAST_UPDATES:
        return None
    highest = float(lr.values.max())
    limit = ENDED_LR * highest
    length = evidence.header.schedule_updates
    if length is not None and lr.updates[-1] >= length and lr.values[-1] <= ENDED_ABOVE_ZERO_LR * highest:
        limit = lr.values[-1]
    count = 0
    while count <= last and lr.values[last - count] <= limit:
        count += 1
    share = count / len(lr)
    if share < ENDED_SHARE or count > last:
        return None
    tail = lr.where(lr.updates >= lr.updates[last - count + 1])
    text = f"the learning rate is {lr.values[-1]:.3g} in the last {share:.0%} of the updates; it was {highest:.3g}"
    facts = [Fact(text, float(lr.values[-1]), float(limit), tail.span)]
    if length is not None:
        facts.append(
            Fact(f"the schedule is {length:,} updates long, and there are {tail.span[1] + 1:,}", float(length))
        )
    return min(1.0, 0.5 + share), facts


TOO_LONG = 1.1
"""Limit of the schedule's length over the run's. With a tenth more, a cosine ends at 2% of its peak (computed), which
costs next to nothing."""


@finds()
def schedule_too_long(evidence: Evidence) -> Signs:
    """Find a schedule of known length that is longer than the planned run."""
    length, planned = evidence.header.schedule_updates, evidence.header.planned_updates
    if length is None or planned is None or length <= TOO_LONG * planned:
        return None
    text = f"the schedule is {length:,} updates long, and the run {planned:,}"
    facts = [Fact(text, length / planned, TOO_LONG)]
    if len(evidence.lr):
        highest = evidence.lr.values.max()
        facts.append(
            Fact(
                f"the last learning rate seen is {evidence.lr.values[-1]:.3g}, the highest {highest:.3g}",
                float(evidence.lr.values[-1]),
                updates=(int(evidence.lr.updates[-1]),) * 2,
            )
        )
    return min(1.0, 0.5 + 0.1 * length / planned), facts


JUMP = 0.2
"""Least jump, as a share of the highest learning rate so far: less costs little. A choice."""

SCHEDULE_CHANGE = 3.0
"""Least jump in units of the largest change between the records just before and after: the schedule itself changes by
much in a warmup or a fast decay. A choice."""


@finds(explains={"lr_too_high", "spike"})
def lr_jumped(evidence: Evidence) -> Signs:
    """Find a jump at a resume; a jump downwards only if the learning rate rises again, unlike in a stepped schedule.

    If the record has a jump of that size elsewhere, the schedule itself has such steps, and nothing is found.
    """
    lr, headers = evidence.lr.finite, evidence.run.headers
    facts: list[Fact] = []
    largest = 0.0
    # An added group also writes a header, and may have any learning rate.
    first = [b.first_update for a, b in pairwise(headers) if len(a.groups) == len(b.groups)]
    resumes = [at for at in np.searchsorted(lr.updates, first).tolist() if 0 < at < len(lr)]
    for at in resumes:
        if _jumped(lr.values, at, resumes):
            old, new, update = float(lr.values[at - 1]), float(lr.values[at]), int(lr.updates[at])
            text = f"resumed at update {update:,} with a learning rate of {new:.3g}; it had been {old:.3g}"
            facts.append(Fact(text, new, old, (update, update)))
            if _repeats(lr.values, at):
                facts.append(Fact("what follows are the learning rates of the run's first updates once more"))
            largest = max(largest, abs(new - old) / float(lr.values[:at].max()))
    return min(1.0, 0.5 + largest / 2), facts


def _jumped(values: Float64s, at: int, resumes: Sequence[int]) -> bool:
    """Return whether the learning rate jumps at the index ``at`` of ``values``, (n,)."""
    steps, size = np.diff(values), float(values[at] - values[at - 1])
    nearby = np.abs(steps[[j for j in (at - 2, at) if 0 <= j < len(steps)]])
    if abs(size) <= JUMP * values[:at].max() or abs(size) <= SCHEDULE_CHANGE * nearby.max(initial=0.0):
        return False
    elsewhere = np.delete(steps, np.array(resumes) - 1) * math.copysign(1.0, size)
    if elsewhere.max(initial=0.0) >= abs(size) / 2:
        return False
    return size > 0 or float(values[at:].max()) > values[at] - size / 2


def _repeats(values: Float64s, at: int) -> bool:
    """Return whether the learning rates ``values``, (n,), from ``at`` on repeat those from the start on."""
    count = min(at, len(values) - at)
    return np.allclose(values[at : at + count], values[:count], rtol=1e-6, atol=0.0)

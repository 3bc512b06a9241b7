"""A learning rate that has come to nothing while training goes on."""

from __future__ import annotations

from gradstep.monitor.doctor.evidence import Evidence
from gradstep.monitor.doctor.finding import Cause, Fact, Finding, Severity

CAUSE = Cause(
    "schedule_ended_early",
    "the schedule ended early",
    Severity.CRITICAL,
    "The learning rate has reached its end and training goes on: these updates change nothing, or next to nothing.",
    "Give the schedule as many updates as the run will make: batches divided by the micro-batches of an update, "
    "times epochs; and advance it once per update, not per micro-batch.",
    frozenset({"lr_too_low", "lost_to_rounding"}),
)

NOTHING = 1e-6
"""Of the highest learning rate. A cosine is below it in its last 0.06% only, a fourth power in its last 3%: computed
from the shapes."""

FLOOR = 0.5
"""A schedule with an end above 0 counts as ended early if it holds less than this share of its highest value. A
choice."""

SHARE = 0.1
"""Of the updates that come after the end. A choice: a tenth of the compute."""

LEAST_UPDATES = 10


def schedule_ended_early(evidence: Evidence) -> Finding | None:
    """A last tenth or more at a learning rate of nothing, or past the end that the schedule is known to have."""
    lr, last = evidence.lr, len(evidence.lr) - 1
    if last + 1 < LEAST_UPDATES:
        return None
    highest = float(lr.values.max())
    limit = NOTHING * highest
    length = evidence.header.schedule_updates
    if length is not None and lr.values[-1] <= FLOOR * highest:
        limit = lr.values[-1]
    rest = 0
    while rest <= last and lr.values[last - rest] <= limit:
        rest += 1
    over = rest / len(lr)
    if over < SHARE or rest > last:
        return None
    tail = lr.where(lr.updates >= lr.updates[last - rest + 1])
    text = f"the learning rate is {lr.values[-1]:.3g} in the last {over:.0%} of the updates; it was {highest:.3g}"
    facts = [Fact(text, float(lr.values[-1]), float(limit), tail.span)]
    if length is not None:
        facts.append(
            Fact(f"the schedule is {length:,} updates long, and there are {tail.span[1] + 1:,}", float(length))
        )
    return Finding(CAUSE, min(1.0, 0.5 + over), tuple(facts))

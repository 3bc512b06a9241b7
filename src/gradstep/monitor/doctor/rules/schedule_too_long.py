"""A schedule that the run will never see the end of."""

from __future__ import annotations

from gradstep.monitor.doctor.evidence import Evidence
from gradstep.monitor.doctor.finding import Cause, Fact, Finding, Severity

CAUSE = Cause(
    "schedule_too_long",
    "the schedule is longer than the run",
    Severity.WARNING,
    "The run ends while the learning rate is still high, and misses the fall that brings most of the last gain.",
    "Give the schedule as many updates as the run will make: batches divided by the micro-batches of an update, "
    "times epochs.",
)

LONGER = 1.1
"""Schedule over run. A tenth more leaves a cosine at 2% of its peak (computed), which costs next to nothing."""


def schedule_too_long(evidence: Evidence) -> Finding | None:
    """A schedule of known length that is longer than the planned run, and falls after its end."""
    length, planned = evidence.header.schedule_updates, evidence.header.planned_updates
    if length is None or planned is None or length <= LONGER * planned:
        return None
    text = f"the schedule is {length:,} updates long, and the run {planned:,}"
    facts = [Fact(text, length / planned, LONGER)]
    if len(evidence.lr):
        highest = evidence.lr.values.max()
        facts.append(
            Fact(
                f"the last learning rate seen is {evidence.lr.values[-1]:.3g}, the highest {highest:.3g}",
                float(evidence.lr.values[-1]),
                updates=(int(evidence.lr.updates[-1]),) * 2,
            )
        )
    return Finding(CAUSE, min(1.0, 0.5 + 0.1 * length / planned), tuple(facts))

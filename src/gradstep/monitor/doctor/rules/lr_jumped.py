"""A learning rate that is another one after a resume, though no schedule would have moved it so."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from gradstep.monitor.doctor.evidence import Evidence, Floats
from gradstep.monitor.doctor.finding import Cause, Fact, Finding, Severity

CAUSE = Cause(
    "lr_jumped",
    "the learning rate jumped on resume",
    Severity.WARNING,
    "The run was resumed with another learning rate than it had: mostly a schedule that began anew, because its state "
    "was not saved or not loaded, or was overwritten by a scheduler that was made afterwards.",
    "Keep the schedule's state with the optimizer's and load both (stepper.state_dict() and gradstep.save_checkpoint "
    "hold all of it); make the scheduler before loading. If the change was meant, nothing is wrong.",
    frozenset({"lr_too_high", "spike"}),
)

JUMP = 0.2
"""Of the highest learning rate so far: less costs little. A choice."""

OWN = 3.0
"""Times what the learning rate changes by from one record to the next just before and after, which is the schedule's
own doing: in a warmup or a fast decay that is much. A choice."""


def lr_jumped(evidence: Evidence) -> Finding | None:
    """A jump at a resume; downwards only if it rises again, as a step of a schedule would not.

    A jump of that size elsewhere in the record shows that the schedule has such steps: then nothing is said.
    """
    lr, headers = evidence.lr.finite, evidence.run.headers
    facts: list[Fact] = []
    largest = 0.0
    # A group that was added opens a header as well, and may have any learning rate.
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
    return Finding(CAUSE, min(1.0, 0.5 + largest / 2), tuple(facts)) if facts else None


def _jumped(values: Floats, at: int, resumes: Sequence[int]) -> bool:
    """Whether the learning rate of record ``at`` does not follow from those before."""
    steps, size = np.diff(values), float(values[at] - values[at - 1])
    nearby = np.abs(steps[[j for j in (at - 2, at) if 0 <= j < len(steps)]])
    if abs(size) <= JUMP * values[:at].max() or abs(size) <= OWN * nearby.max(initial=0.0):
        return False
    elsewhere = np.delete(steps, np.array(resumes) - 1) * math.copysign(1.0, size)
    if elsewhere.max(initial=0.0) >= abs(size) / 2:
        return False
    return size > 0 or float(values[at:].max()) > values[at] - size / 2


def _repeats(values: Floats, at: int) -> bool:
    """Whether the learning rates from ``at`` on are those from the start on."""
    count = min(at, len(values) - at)
    return np.allclose(values[at : at + count], values[:count], rtol=1e-6, atol=0.0)

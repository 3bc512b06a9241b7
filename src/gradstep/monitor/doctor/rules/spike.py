"""One update at which a healthy run leaps, and the tensor that led it."""

from __future__ import annotations

import numpy as np

from gradstep.monitor.doctor.evidence import Evidence
from gradstep.monitor.doctor.finding import Cause, Fact, Finding, Severity
from gradstep.monitor.doctor.rules.gradients_exploding import ALARMING
from gradstep.monitor.doctor.rules.lr_too_high import RATIO, SHORT

CAUSE = Cause(
    "spike",
    "a spike",
    Severity.WARNING,
    "Loss and gradient leap from one update to the next: a broken or very unusual batch, or a layer that has "
    "become unstable.",
    "Look at the batch of that update and at the tensor named; clip the gradient norm (max_grad_norm=1.0), so that "
    "one batch cannot do much; if it comes back, lower beta2 or the learning rate.",
    frozenset({"lr_too_high", "gradients_exploding", "weights_growing", "not_finite"}),
    frozenset({"loss", "gradient norm"}),
)

BEFORE = 20
"""Updates whose medians a spike is held against. A choice."""

RISE = 0.2
"""By which the loss rises, in units of what it had gained (or a fifth of its start, if that is more)."""

GRADIENT = 5.0
"""Gradient norm over its median before, at the same update. Measured on the runs of benchmarks/doctor.py: where the
loss of a healthy run rises like that by chance, up to 2.7; at broken batches 280 and more."""

USUAL_RATIO = 0.03
"""Update over weights before the spike: above it the learning rate is the suspect (see lr_too_high)."""

LED = 5
"""Updates before the spike in which the leading tensor is looked for. A choice."""


def spike(evidence: Evidence) -> Finding | None:
    """A loss and a gradient norm far above their recent medians, in a run that was healthy before."""
    found = [at for at in _candidates(evidence) if _usual(evidence, at)]
    if not found:
        return None
    at = found[0]
    loss, norm = evidence.loss, evidence.grad_norm
    before, level = loss.during(at - BEFORE, at - 1).median, norm.during(at - BEFORE, at - 1).median
    rise, factor = loss.during(at, at).median, norm.during(at, at).median / level
    facts = [
        Fact(f"the loss leapt from {before:.3g} to {rise:.3g}", rise, before, (at, at)),
        Fact(f"the gradient norm was {factor:.1f} times its recent median", factor, GRADIENT, (at, at)),
    ]
    facts += _led(evidence, at)
    if len(found) > 1:
        facts.append(Fact(f"{len(found)} updates leapt like that", len(found), 0, (found[0], found[-1])))
    return Finding(CAUSE, min(1.0, 0.5 + 0.05 * factor), tuple(facts))


def _candidates(evidence: Evidence) -> list[int]:
    """Updates at which the loss and the gradient norm leap."""
    loss, norm = evidence.loss, evidence.grad_norm
    known = dict(zip(norm.updates.tolist(), norm.values.tolist()))
    found = []
    for i in range(BEFORE, len(loss)):
        at, recent = int(loss.updates[i]), float(np.median(loss.values[i - BEFORE : i]))
        gained = max(loss.values[0] - recent, abs(loss.values[0]) / 5)
        if loss.values[i] - recent < RISE * gained or at not in known:
            continue
        earlier = norm.during(int(loss.updates[i - BEFORE]), at - 1)
        if len(earlier) and known[at] >= GRADIENT * earlier.median:
            found.append(at)
    return found


def _usual(evidence: Evidence, at: int) -> bool:
    """Whether the run was healthy before, and its updates are not large for good: then the learning rate leaps."""
    earlier = evidence.ratio.during(at - BEFORE, at - 1)
    if len(earlier) and earlier.median > USUAL_RATIO:
        return False
    if evidence.grad_norm.during(at - BEFORE, at - 1).median >= ALARMING:
        return False
    apart = evidence.ratio.where((evidence.ratio.updates < at - LED) | (evidence.ratio.updates > at + BEFORE))
    return not len(apart) or float(apart.smooth(SHORT).values.max()) < RATIO


def _led(evidence: Evidence, at: int) -> list[Fact]:
    """The tensor whose gradient leapt first, and by most among those that leapt with it."""
    if not evidence.has_parameters:
        return []
    updates, norms = evidence.of_parameters("grad_norm")
    row = int(np.searchsorted(updates, at))
    if row < BEFORE or row == len(updates) or updates[row] != at:
        return []
    calm = norms[max(0, row - BEFORE - LED) : row - LED]
    known = np.isfinite(calm).any(axis=0)
    usual = np.full(norms.shape[1], np.inf)
    usual[known] = np.nanmedian(calm[:, known], axis=0)
    usual[usual == 0] = np.inf
    for r in range(row - LED, row + 1):
        factors = np.where(np.isfinite(norms[r]), norms[r], 0.0) / usual
        tensor = int(np.argmax(factors))
        if factors[tensor] >= GRADIENT:
            name = evidence.header.parameters[tensor].name
            text = f"{name} led it: its gradient was {factors[tensor]:.1f} times its recent median"
            when = int(updates[r])
            return [Fact(text, float(factors[tensor]), GRADIENT, (when, when))]
    return []

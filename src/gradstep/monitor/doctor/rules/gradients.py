"""Rules about the norm of the gradient."""

import numpy as np

from gradstep.monitor.doctor.evidence import MEDIAN_WIDTH, Evidence
from gradstep.monitor.doctor.finding import Fact, Signs, describe_fall, finds, grade, join_names
from gradstep.monitor.doctor.rules.learning_rate import HIGH_RATIO, SHORT_WIDTH
from gradstep.monitor.record import ALARMING_GRADIENT

ALARMING_CERTAIN = 1e4

LEAST_ROWS = 3
"""Least number of records over the limit: a single one may be one bad batch. A choice."""


@finds(explains={"not_finite"}, spoils={"loss", "gradient norm"})
def gradients_exploding(evidence: Evidence) -> Signs:
    """Find a gradient norm, before clipping, whose median of 5 updates is above 100 for several updates."""
    norm = evidence.grad_norm.smooth(SHORT_WIDTH)
    over = norm.where(norm.values >= ALARMING_GRADIENT)
    if len(over) < LEAST_ROWS:
        return None
    at, largest = norm.highest
    facts = (
        Fact(f"the gradient norm reached {largest:.3g} (usual: 0.1 to 10)", largest, ALARMING_GRADIENT, (at, at)),
        Fact(
            f"it was over {ALARMING_GRADIENT:g} in {len(over) / len(norm):.0%} of the updates",
            len(over) / len(norm),
            0.0,
            over.span,
        ),
    )
    return grade(largest, limit=ALARMING_GRADIENT, certain=ALARMING_CERTAIN), facts


VANISHED_NORM = 1e-5
"""Limit of the median global norm: ten thousand times below the healthy 0.1 (see gradients_exploding). A choice."""

VANISHED_SHARE = 1e-4
"""Limit of a matrix's median norm over that of the largest. Glorot & Bengio, "Understanding the difficulty of training
deep feedforward neural networks", 2010, figure 7, show how it falls with depth. Measured in benchmarks/doctor.py: 0.09
or more in healthy runs, 4e-7 and less in sick ones."""

VANISHED_FALL = 0.3
"""A loss that fell by more than this share of its start is not stuck. A choice."""


@finds(explains={"lr_too_low"}, spoils={"loss", "gradient norm"})
def gradients_vanished(evidence: Evidence) -> Signs:
    """Find a stuck loss with gradients near zero: of some matrices compared with others, or of all together."""
    norm = evidence.grad_norm
    if len(norm) < 2 * MEDIAN_WIDTH or evidence.fall is None or evidence.fall > VANISHED_FALL:
        return None
    facts, score = [], 0.0
    if norm.median < VANISHED_NORM:
        facts.append(
            Fact(f"the gradient norm is {norm.median:.1e} (usual: 0.1 to 10)", norm.median, VANISHED_NORM, norm.span)
        )
        score = grade(norm.median, limit=VANISHED_NORM, certain=VANISHED_NORM**2)
    medians = matrix_norms(evidence)
    if medians and (largest := max(medians.values())) > 0:
        vanished = {name: value / largest for name, value in medians.items() if value < VANISHED_SHARE * largest}
        if vanished:
            least = min(vanished.values())
            text = f"gradients of {join_names(vanished)} are {least:.1e} of the largest matrix's"
            facts.append(Fact(text, least, VANISHED_SHARE, norm.span))
            score = max(score, grade(least, limit=VANISHED_SHARE, certain=VANISHED_SHARE**2))
    if not facts:
        return None
    facts.append(Fact(f"the loss {describe_fall(evidence.fall)}", evidence.fall, VANISHED_FALL, evidence.loss.span))
    return score, facts


def matrix_norms(evidence: Evidence) -> dict[str, float]:
    """Return the median gradient norm of every parameter with two or more dimensions and a gradient."""
    if not evidence.has_parameters:
        return {}
    _, norms = evidence.of_parameters("grad_norm")
    columns = ((p.name, norms[:, i]) for i, p in enumerate(evidence.header.parameters) if len(p.shape) >= 2)
    finite = ((name, column[np.isfinite(column)]) for name, column in columns)
    return {name: float(np.median(column)) for name, column in finite if len(column)}


SPIKE_WINDOW = 20
"""Number of preceding updates for the medians that a spike is compared with. A choice."""

SPIKE_RISE = 0.2
"""Least rise of the loss in a spike, as a share of its previous fall (or of a fifth of its start, if that is more)."""

SPIKE_GRADIENT = 5.0
"""Least ratio of the gradient norm to its preceding median in a spike. Measured on the runs of benchmarks/doctor.py:
where the loss of a healthy run rises like that by chance, up to 2.7; at broken batches 280 and more."""

SPIKE_RATIO = 0.03
"""Update over weights before the spike, above which the learning rate is the likelier cause (see lr_too_high)."""

SPIKE_LEAD = 5
"""Number of updates before the spike in which to search for the leading tensor. A choice."""


@finds(
    explains={"lr_too_high", "gradients_exploding", "weights_growing", "not_finite"}, spoils={"loss", "gradient norm"}
)
def spike(evidence: Evidence) -> Signs:
    """Find a loss and a gradient norm far above their recent medians, in a run that was healthy before."""
    leaps = [at for at in _find_leaps(evidence) if _was_healthy(evidence, at)]
    if not leaps:
        return None
    at = leaps[0]
    loss, norm = evidence.loss, evidence.grad_norm
    before, level = loss.during(at - SPIKE_WINDOW, at - 1).median, norm.during(at - SPIKE_WINDOW, at - 1).median
    rise, factor = loss.during(at, at).median, norm.during(at, at).median / level
    facts = [
        Fact(f"the loss leapt from {before:.3g} to {rise:.3g}", rise, before, (at, at)),
        Fact(f"the gradient norm was {factor:.1f} times its recent median", factor, SPIKE_GRADIENT, (at, at)),
    ]
    facts += _find_leading_tensor(evidence, at)
    if len(leaps) > 1:
        facts.append(Fact(f"{len(leaps)} updates leapt like that", len(leaps), 0, (leaps[0], leaps[-1])))
    return min(1.0, 0.5 + 0.05 * factor), facts


def _find_leaps(evidence: Evidence) -> list[int]:
    """Return the updates at which both the loss and the gradient norm leap."""
    loss, norm = evidence.loss, evidence.grad_norm
    norm_at = dict(zip(norm.updates.tolist(), norm.values.tolist()))
    leaps = []
    for i in range(SPIKE_WINDOW, len(loss)):
        at, recent = int(loss.updates[i]), float(np.median(loss.values[i - SPIKE_WINDOW : i]))
        gained = max(loss.values[0] - recent, abs(loss.values[0]) / 5)
        if loss.values[i] - recent < SPIKE_RISE * gained or at not in norm_at:
            continue
        earlier = norm.during(int(loss.updates[i - SPIKE_WINDOW]), at - 1)
        if len(earlier) and norm_at[at] >= SPIKE_GRADIENT * earlier.median:
            leaps.append(at)
    return leaps


def _was_healthy(evidence: Evidence, at: int) -> bool:
    """Return whether the run was healthy before, and its updates are not large elsewhere too (see lr_too_high)."""
    earlier = evidence.ratio.during(at - SPIKE_WINDOW, at - 1)
    if len(earlier) and earlier.median > SPIKE_RATIO:
        return False
    if evidence.grad_norm.during(at - SPIKE_WINDOW, at - 1).median >= ALARMING_GRADIENT:
        return False
    elsewhere = evidence.ratio.where(
        (evidence.ratio.updates < at - SPIKE_LEAD) | (evidence.ratio.updates > at + SPIKE_WINDOW)
    )
    return not len(elsewhere) or float(elsewhere.smooth(SHORT_WIDTH).values.max()) < HIGH_RATIO


def _find_leading_tensor(evidence: Evidence, at: int) -> list[Fact]:
    """Return a fact about the tensor whose gradient leapt first; if several leapt together, by the largest factor."""
    if not evidence.has_parameters:
        return []
    updates, norms = evidence.of_parameters("grad_norm")
    row = int(np.searchsorted(updates, at))
    if row < SPIKE_WINDOW or row == len(updates) or updates[row] != at:
        return []
    before = norms[max(0, row - SPIKE_WINDOW - SPIKE_LEAD) : row - SPIKE_LEAD]
    has_norm = np.isfinite(before).any(axis=0)
    usual = np.full(norms.shape[1], np.inf)
    usual[has_norm] = np.nanmedian(before[:, has_norm], axis=0)
    usual[usual == 0] = np.inf
    for r in range(row - SPIKE_LEAD, row + 1):
        factors = np.where(np.isfinite(norms[r]), norms[r], 0.0) / usual
        tensor = int(np.argmax(factors))
        if factors[tensor] >= SPIKE_GRADIENT:
            name = evidence.header.parameters[tensor].name
            text = f"{name} led it: its gradient was {factors[tensor]:.1f} times its recent median"
            when = int(updates[r])
            return [Fact(text, float(factors[tensor]), SPIKE_GRADIENT, (when, when))]
    return []

"""Rules about the weight norm and weight decay."""

from __future__ import annotations

import math

from gradstep.monitor.doctor.evidence import WIDTH, Evidence
from gradstep.monitor.doctor.finding import Cause, Fact, Finding, Severity, fell, grade

WEIGHTS_GROWING = Cause(
    "weights_growing",
    "weights growing: decay too low",
    Severity.WARNING,
    "The weight norm grows like a random walk, with hardly any gain in the loss: updates add up and nothing takes "
    "them back, so that each does less, and a network without normalisation becomes unstable.",
    "Raise weight_decay (0.01 to 0.1 for AdamW; ten times that for Lion, at a tenth of the rate), or lower the "
    "learning rate.",
    spoils=frozenset({"weight norm"}),
)

GROWTH_POWER = 0.3
"""Limit of p if the norm grows as the p-th power of the number of updates over the second half of the run. A random
walk of equal steps has 1/2 without decay, and reaches an equilibrium with decay: Kosson et al., "Rotational
Equilibrium: How Weight Decay Balances Learning Across Neural Networks", arXiv:2305.17212, section 3. Measured in
benchmarks/doctor.py: up to 0.17 in healthy runs, 0.5 and more in sick ones."""

GROWTH = 1.5
"""Least ratio of the norm at the end to the norm at the start. A choice."""

GROWTH_FALL = 0.1
"""Limit of the loss's relative fall in the second half: with more, the growth is learning. A choice."""

GROWTH_UPDATES = 100
"""Least length of the run: in short runs from scratch every weight grows. A choice."""


def weights_growing(evidence: Evidence) -> Finding | None:
    """Find a norm that still grows as a power of the updates in the second half of the run, without a gain in loss."""
    norm, loss = evidence.weight_norm, evidence.loss
    if len(norm) < 2 * WIDTH or len(loss) < 2 * WIDTH or norm.span[1] + 1 < GROWTH_UPDATES or norm.values[0] <= 0:
        return None
    middle, end = norm.part(0.5, 0.55), norm.part(0.95, 1.0)
    if middle.median <= 0:
        return None
    exponent = math.log(end.median / middle.median) / math.log(2)
    grown = end.median / float(norm.values[0])
    before, after = loss.part(0.45, 0.55).median, loss.part(0.9, 1.0).median
    fall = (before - after) / abs(before) if before else 0.0
    if exponent < GROWTH_POWER or grown < GROWTH or fall > GROWTH_FALL:
        return None
    text = (
        f"in the second half the weight norm grew as the {exponent:.2f}th power of the updates (limit {GROWTH_POWER:g})"
    )
    facts = (
        Fact(text, exponent, GROWTH_POWER, (middle.span[0], end.span[1])),
        Fact(f"it went from {norm.values[0]:.3g} to {end.median:.3g}", grown, GROWTH, norm.span),
        Fact(f"the loss meanwhile {fell(fall)}", fall, GROWTH_FALL, (middle.span[0], end.span[1])),
    )
    return Finding(WEIGHTS_GROWING, min(1.0, 0.5 + exponent - GROWTH_POWER), facts)


WEIGHTS_SHRINKING = Cause(
    "weights_shrinking",
    "weights shrinking: decay too high",
    Severity.WARNING,
    "The weight norm falls far below its start: the decay takes away more than learning adds.",
    "Lower weight_decay, to 0.01 to 0.1 for AdamW, 1e-4 to 5e-4 for SGD; what counts is learning rate × decay × "
    "number of updates, which should not be far above 1.",
    frozenset({"gradients_vanished", "lr_too_high"}),
    frozenset({"weight norm"}),
)

SHRINKAGE = 0.7
"""Limit of the norm at the end over that at the start. Measured in benchmarks/doctor.py: healthy runs end at 1 or
above, sick ones below 0.4."""

SHRINKAGE_CERTAIN = 0.3


def weights_shrinking(evidence: Evidence) -> Finding | None:
    """Find a norm that has fallen by more than 30% in a run with decay."""
    norm = evidence.weight_norm
    decay = max((g.weight_decay or 0.0 for u in evidence.made for g in u.groups), default=0.0)
    if len(norm) < 2 * WIDTH or decay <= 0 or norm.values[0] <= 0:
        return None
    end = norm.part(0.95, 1.0).median
    rest = end / float(norm.values[0])
    if rest >= SHRINKAGE:
        return None
    facts = [
        Fact(
            f"the weight norm fell from {norm.values[0]:.3g} to {end:.3g}, {rest:.0%} of it",
            rest,
            SHRINKAGE,
            norm.span,
        ),
        Fact(f"weight_decay is {decay:g}", decay),
    ]
    if evidence.rule in {"adamw", "lion"}:
        alone = math.prod(1 - (g.lr or 0.0) * (g.weight_decay or 0.0) for u in evidence.made for g in u.groups[:1])
        facts.append(Fact(f"decay alone would have left {alone:.0%}", alone))
    return Finding(WEIGHTS_SHRINKING, grade(rest, limit=SHRINKAGE, certain=SHRINKAGE_CERTAIN), tuple(facts))


COUPLED_DECAY = Cause(
    "coupled_decay",
    "Adam where AdamW was meant",
    Severity.WARNING,
    "The decay is added to the gradient, so the adaptive rate divides it too: weights with large gradients hardly "
    "decay, weights without gradient shrink at the full learning rate.",
    "Take the decoupled rule (AdamW for Adam; decoupled_weight_decay=True where the rule has it) and choose "
    "weight_decay anew, 0.01 to 0.1; or set weight_decay to 0.",
    frozenset({"weights_shrinking"}),
)

ADAPTIVE = frozenset({"adam", "adamax", "nadam", "radam", "rmsprop", "adagrad", "adadelta"})
"""Rules that divide by a root of squared gradients and add the decay to the gradient unless told otherwise.
Source: Loshchilov & Hutter, "Decoupled Weight Decay Regularization", arXiv:1711.05101, section 2."""


def coupled_decay(evidence: Evidence) -> Finding | None:
    """Find an adaptive rule with a decay that is not decoupled."""
    if evidence.rule not in ADAPTIVE:
        return None
    coupled = [
        (group.name, decay)
        for group, decay in zip(evidence.header.groups, evidence.decays)
        if decay > 0 and not group.settings.get("decoupled_weight_decay", False)
    ]
    if not coupled:
        return None
    facts = [
        Fact(f"{evidence.header.optimizer} has weight_decay={decay:g} in {name}, added to the gradient", decay)
        for name, decay in coupled
    ]
    return Finding(COUPLED_DECAY, 1.0, tuple(facts))


NO_DECAY = Cause(
    "no_decay",
    "no weight decay",
    Severity.HINT,
    "AdamW without decay is Adam: nothing holds the weights, which cost generalisation in long trainings.",
    "Set weight_decay to 0.01 to 0.1 for matrices (gradstep.param_groups leaves norms and biases out), unless this "
    "is meant, as with low-rank adapters and short fine-tuning.",
)

DECOUPLED = frozenset({"adamw"})
"""Rules that differ from another rule only by their decay (Loshchilov & Hutter, arXiv:1711.05101, algorithm 2)."""


def no_decay(evidence: Evidence) -> Finding | None:
    """Find a rule of ``DECOUPLED`` with a decay of 0 in every group."""
    decays = [g.weight_decay for update in evidence.made for g in update.groups if g.weight_decay is not None]
    if evidence.rule not in DECOUPLED or any(decays) or any(evidence.decays):
        return None
    return Finding(NO_DECAY, 0.5, (Fact(f"{evidence.header.optimizer} has weight_decay=0 in every group", 0.0),))

"""Rules about weights and decay, and about settings that are rarely intended: momentum, betas, those of fine-tuning."""

import math

from gradstep.monitor.doctor.evidence import MEDIAN_WIDTH, Evidence
from gradstep.monitor.doctor.finding import DIVERGENCE, EVERY_READING, Fact, Signs, describe_fall, finds, grade

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


@finds(spoils={"weight norm"})
def weights_growing(evidence: Evidence) -> Signs:
    """Find a norm that still grows as a power of the updates in the second half of the run, without a gain in loss."""
    norm, loss = evidence.weight_norm, evidence.loss
    too_short = min(len(norm), len(loss)) < 2 * MEDIAN_WIDTH or norm.span[1] + 1 < GROWTH_UPDATES
    if too_short or norm.values[0] <= 0:
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
        Fact(f"the loss meanwhile {describe_fall(fall)}", fall, GROWTH_FALL, (middle.span[0], end.span[1])),
    )
    return min(1.0, 0.5 + exponent - GROWTH_POWER), facts


SHRINKAGE = 0.7
"""Limit of the norm at the end over that at the start. Measured in benchmarks/doctor.py: healthy runs end at 1 or
above, sick ones below 0.4."""

SHRINKAGE_CERTAIN = 0.3

BLOWN_UP = 2.0
"""A norm that grew to more than so many times its start has run away, and decay is not its fault. A choice."""


@finds(explains={"gradients_vanished", "lr_too_high"}, spoils={"weight norm"})
def weights_shrinking(evidence: Evidence) -> Signs:
    """Find a norm that has fallen by more than 30% in a run with decay, and never grew far above its start before."""
    norm = evidence.weight_norm
    decay = max((g.weight_decay or 0.0 for u in evidence.made for g in u.groups), default=0.0)
    if len(norm) < 2 * MEDIAN_WIDTH or decay <= 0 or norm.values[0] <= 0:
        return None
    if norm.highest[1] > BLOWN_UP * norm.values[0]:
        return None  # decay shrinks what too large updates had made
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
    if evidence.rules[0] in {"adamw", "lion"}:
        alone = math.prod(1 - (g.lr or 0.0) * (g.weight_decay or 0.0) for u in evidence.made for g in u.groups[:1])
        facts.append(Fact(f"decay alone would have left {alone:.0%}", alone))
    return grade(rest, limit=SHRINKAGE, certain=SHRINKAGE_CERTAIN), facts


ADAPTIVE = frozenset({"adam", "adamax", "nadam", "radam", "rmsprop", "adagrad", "adadelta"})
"""Rules that divide by a root of squared gradients and add the decay to the gradient unless told otherwise.
Source: Loshchilov & Hutter, "Decoupled Weight Decay Regularization", arXiv:1711.05101, section 2."""


@finds(explains={"weights_shrinking"})
def coupled_decay(evidence: Evidence) -> Signs:
    """Find an adaptive rule with a decay that is not decoupled."""
    coupled = [
        (group.settings.get("rule", evidence.header.optimizer), group.name, decay)
        for group, rule, decay in zip(evidence.header.groups, evidence.rules, evidence.decays)
        if rule in ADAPTIVE and decay > 0 and not group.settings.get("decoupled_weight_decay", False)
    ]
    facts = [
        Fact(f"{rule} has weight_decay={decay:g} in {name}, added to the gradient", decay)
        for rule, name, decay in coupled
    ]
    return 1.0, facts


DECOUPLED = frozenset({"adamw"})
"""Rules that differ from another rule only by their decay (Loshchilov & Hutter, arXiv:1711.05101, algorithm 2)."""


@finds()
def no_decay(evidence: Evidence) -> Signs:
    """Find a rule of ``DECOUPLED`` with a decay of 0 in every group."""
    decays = [g.weight_decay for update in evidence.made for g in update.groups if g.weight_decay is not None]
    if DECOUPLED.isdisjoint(evidence.rules) or any(decays) or any(evidence.decays):
        return None
    return 0.5, (Fact(f"{evidence.header.optimizer} has weight_decay=0 in every group", 0.0),)


MOMENTUM_LIMIT = 1.0
"""The sum of all powers of the momentum is finite below 1 only."""


@finds(explains=DIVERGENCE, spoils=EVERY_READING)
def momentum_too_high(evidence: Evidence) -> Signs:
    """Find a momentum, or a beta1, of 1 or more in any update."""
    used = {
        momentum: u.update
        for u in reversed(evidence.made)
        for g in u.groups
        if (momentum := g.betas[0] if g.betas is not None else g.momentum) is not None and momentum >= MOMENTUM_LIMIT
    }
    facts = [
        Fact(
            f"momentum is {momentum:g}; usual is 0.9, and it must be below 1",
            momentum,
            MOMENTUM_LIMIT,
            (update, update),
        )
        for momentum, update in sorted(used.items())
    ]
    return 1.0, facts


ADAM = frozenset({"adam", "adamw", "nadam", "radam", "adamax"})

LEAST_BETA2 = 0.9
"""Published recipes lie between 0.9 (adversarial training: Gulrajani et al., arXiv:1704.00028, algorithm 1) and 0.999
(Kingma & Ba, arXiv:1412.6980); 0.95 for language models (Brown et al., arXiv:2005.14165, appendix B)."""

MOST_BETA2 = 0.9999
"""An average over 10,000 updates: we know no recipe above it."""

MOST_BETA1 = 0.98
"""An average over 50 updates; one-cycle goes up to 0.95 (Smith, arXiv:1803.09820), Lion to 0.95 (arXiv:2302.06675)."""


@finds(explains={"lr_too_high", "weights_growing", "gradients_exploding", "spike"})
def unusual_betas(evidence: Evidence) -> Signs:
    """Find betas outside the published range, or a β₁ that is not below √β₂.

    For β₁ < √β₂ and a β₂ near enough to 1 Adam converges; Zhang et al., "Adam Can Converge Without Any Modification
    On Update Rules", arXiv:2208.09632, theorem 3.1. Kingma & Ba ask for β₁² < √β₂ (theorem 4.1).
    """
    betas = {
        (g.betas, rule in ADAM): update.update
        for update in reversed(evidence.made)
        for g, rule in zip(update.groups, evidence.rules)
        if g.betas is not None
    }
    facts = []
    for ((beta1, beta2), is_adam), update in betas.items():
        at = (update, update)
        if beta1 > MOST_BETA1:
            facts.append(Fact(f"beta1 is {beta1:g}; usual is 0.9, at most {MOST_BETA1:g}", beta1, MOST_BETA1, at))
        if is_adam and beta2 < LEAST_BETA2:
            facts.append(Fact(f"beta2 is {beta2:g}; usual is 0.95 to 0.999", beta2, LEAST_BETA2, at))
        if is_adam and beta2 > MOST_BETA2:
            facts.append(Fact(f"beta2 is {beta2:g}; usual is 0.95 to 0.999", beta2, MOST_BETA2, at))
        if is_adam and beta1 >= beta2**0.5:
            text = f"beta1 = {beta1:g} is not below the root of beta2 = {beta2:g}, as convergence asks for"
            facts.append(Fact(text, beta1, beta2**0.5, at))
    return min(1.0, 0.5 + 0.25 * len(facts)), facts


FINE_TUNING_LR = 1e-3
"""BERT is fine-tuned at 2e-5 to 5e-5 (Devlin et al., arXiv:1810.04805, appendix A.3), low-rank adapters at up to 1e-3
(Hu et al., arXiv:2106.09685, appendix D)."""

FINE_TUNING_BETA2 = 0.99
"""0.98 (RoBERTa) and 0.95 are recipes, of pretraining; a library's default is 0.999. Up to here it is worth a look."""


@finds()
def fine_tuning_settings(evidence: Evidence) -> Signs:
    """Find a high learning rate or a short average of squared gradients in a run marked as fine-tuning."""
    if not evidence.header.fine_tuning or not ADAM.issuperset(evidence.rules):
        return None
    facts = []
    if len(evidence.lr) and (highest := evidence.lr.highest)[1] > FINE_TUNING_LR:
        text = f"the learning rate is {highest[1]:g}; in fine-tuning 1e-5 to 1e-4 is usual"
        facts.append(Fact(text, highest[1], FINE_TUNING_LR, (highest[0], highest[0])))
    short = {
        g.betas[1] for u in evidence.made for g in u.groups if g.betas is not None and g.betas[1] <= FINE_TUNING_BETA2
    }
    facts += [
        Fact(f"beta2 is {beta2:g}; in fine-tuning 0.999 is usual", beta2, FINE_TUNING_BETA2) for beta2 in sorted(short)
    ]
    return 0.5, facts

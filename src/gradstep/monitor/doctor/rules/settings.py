"""Rules about settings that are rarely intended: momentum, betas, and those of fine-tuning."""

from __future__ import annotations

from gradstep.monitor.doctor.evidence import Evidence
from gradstep.monitor.doctor.finding import DIVERGENCE, EVERY_READING, Cause, Fact, Finding, Severity

MOMENTUM_TOO_HIGH = Cause(
    "momentum_too_high",
    "momentum of 1 or more",
    Severity.CRITICAL,
    "Each update is the last one times the momentum, plus the gradient. From 1 on nothing is ever forgotten: the "
    "updates add up, above 1 they grow by themselves, and the run diverges whatever the learning rate.",
    "Set momentum (beta1 in Adam and Lion) to 0.9, at most 0.99.",
    DIVERGENCE,
    EVERY_READING,
)


MOMENTUM_LIMIT = 1.0
"""The sum of all powers of the momentum is finite below 1 only."""


def momentum_too_high(evidence: Evidence) -> Finding | None:
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
    return Finding(MOMENTUM_TOO_HIGH, 1.0, tuple(facts)) if facts else None


UNUSUAL_BETAS = Cause(
    "unusual_betas",
    "unusual betas",
    Severity.WARNING,
    "beta1 says over how many updates the direction is averaged, beta2 over how many its size. A size that is "
    "forgotten sooner than the direction makes single steps far larger than the learning rate.",
    "Take (0.9, 0.999), for language models (0.9, 0.95), for adversarial training (0.5, 0.999); for Lion (0.9, "
    "0.99). Were the two exchanged?",
    frozenset({"lr_too_high", "weights_growing", "gradients_exploding", "spike"}),
)

ADAM = frozenset({"adam", "adamw", "nadam", "radam", "adamax"})

LEAST_BETA2 = 0.9
"""Published recipes lie between 0.9 (adversarial training: Gulrajani et al., arXiv:1704.00028, algorithm 1) and 0.999
(Kingma & Ba, arXiv:1412.6980); 0.95 for language models (Brown et al., arXiv:2005.14165, appendix B)."""

MOST_BETA2 = 0.9999
"""An average over 10,000 updates: we know no recipe above it."""

MOST_BETA1 = 0.98
"""An average over 50 updates; one-cycle goes up to 0.95 (Smith, arXiv:1803.09820), Lion to 0.95 (arXiv:2302.06675)."""


def unusual_betas(evidence: Evidence) -> Finding | None:
    """Find betas outside the published range, or a β₁ that is not below √β₂.

    For β₁ < √β₂ and a β₂ near enough to 1 Adam converges; Zhang et al., "Adam Can Converge Without Any Modification
    On Update Rules", arXiv:2208.09632, theorem 3.1. Kingma & Ba ask for β₁² < √β₂ (theorem 4.1).
    """
    betas = {g.betas: update.update for update in reversed(evidence.made) for g in update.groups if g.betas is not None}
    facts = []
    for (beta1, beta2), update in betas.items():
        at = (update, update)
        if beta1 > MOST_BETA1:
            facts.append(Fact(f"beta1 is {beta1:g}; usual is 0.9, at most {MOST_BETA1:g}", beta1, MOST_BETA1, at))
        if evidence.rule in ADAM and beta2 < LEAST_BETA2:
            facts.append(Fact(f"beta2 is {beta2:g}; usual is 0.95 to 0.999", beta2, LEAST_BETA2, at))
        if evidence.rule in ADAM and beta2 > MOST_BETA2:
            facts.append(Fact(f"beta2 is {beta2:g}; usual is 0.95 to 0.999", beta2, MOST_BETA2, at))
        if evidence.rule in ADAM and beta1 >= beta2**0.5:
            text = f"beta1 = {beta1:g} is not below the root of beta2 = {beta2:g}, as convergence asks for"
            facts.append(Fact(text, beta1, beta2**0.5, at))
    return Finding(UNUSUAL_BETAS, min(1.0, 0.5 + 0.25 * len(facts)), tuple(facts)) if facts else None


FINE_TUNING_SETTINGS = Cause(
    "fine_tuning_settings",
    "unusual settings for fine-tuning",
    Severity.HINT,
    "A model that is trained already needs small updates: a learning rate made for training from scratch wipes "
    "out what it knows, and a short average of squared gradients follows single batches.",
    "With AdamW take a learning rate of 1e-5 to 1e-4 (adapters: up to 1e-3) with a warmup, and beta2 = 0.999, "
    "unless the recipe of the model says otherwise.",
)


FINE_TUNING_LR = 1e-3
"""BERT is fine-tuned at 2e-5 to 5e-5 (Devlin et al., arXiv:1810.04805, appendix A.3), low-rank adapters at up to 1e-3
(Hu et al., arXiv:2106.09685, appendix D)."""

FINE_TUNING_BETA2 = 0.99
"""0.98 (RoBERTa) and 0.95 are recipes, of pretraining; a library's default is 0.999. Up to here it is worth a look."""


def fine_tuning_settings(evidence: Evidence) -> Finding | None:
    """Find a high learning rate or a short average of squared gradients in a run marked as fine-tuning."""
    if not evidence.header.fine_tuning or evidence.rule not in ADAM:
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
    return Finding(FINE_TUNING_SETTINGS, 0.5, tuple(facts)) if facts else None

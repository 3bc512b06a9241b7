"""Betas that Adam is not known to work with."""

from __future__ import annotations

from gradstep.monitor.doctor.evidence import Evidence
from gradstep.monitor.doctor.finding import Cause, Fact, Finding, Severity

CAUSE = Cause(
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
"""An average over 10,000 updates: above it no recipe is known to us."""

MOST_BETA1 = 0.98
"""An average over 50 updates; one-cycle goes up to 0.95 (Smith, arXiv:1803.09820), Lion to 0.95 (arXiv:2302.06675)."""


def unusual_betas(evidence: Evidence) -> Finding | None:
    """Betas outside the published range, or a β₁ that is not below √β₂.

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
    return Finding(CAUSE, min(1.0, 0.5 + 0.25 * len(facts)), tuple(facts)) if facts else None

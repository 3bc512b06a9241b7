"""Settings that are rarely meant in fine-tuning."""

from __future__ import annotations

from gradstep.monitor.doctor.evidence import Evidence
from gradstep.monitor.doctor.finding import Cause, Fact, Finding, Severity

CAUSE = Cause(
    "fine_tuning_settings",
    "unusual settings for fine-tuning",
    Severity.HINT,
    "A model that is trained already needs small updates: a learning rate made for training from scratch wipes "
    "out what it knows, and a short average of squared gradients follows single batches.",
    "With AdamW take a learning rate of 1e-5 to 1e-4 (adapters: up to 1e-3) with a warmup, and beta2 = 0.999, "
    "unless the recipe of the model says otherwise.",
)


ADAM = frozenset({"adam", "adamw", "nadam", "radam", "adamax"})

MOST_LR = 1e-3
"""BERT is fine-tuned at 2e-5 to 5e-5 (Devlin et al., arXiv:1810.04805, appendix A.3), low-rank adapters at up to 1e-3
(Hu et al., arXiv:2106.09685, appendix D)."""

SHORT_BETA2 = 0.99
"""0.98 (RoBERTa) and 0.95 are recipes, of pretraining; a library's default is 0.999. Up to here it is worth a look."""


def fine_tuning_settings(evidence: Evidence) -> Finding | None:
    """A high learning rate or a short second average, in a run that says that it is a fine-tuning."""
    if not evidence.header.fine_tuning or evidence.rule not in ADAM:
        return None
    facts = []
    if len(evidence.lr) and (highest := evidence.lr.highest)[1] > MOST_LR:
        text = f"the learning rate is {highest[1]:g}; in fine-tuning 1e-5 to 1e-4 is usual"
        facts.append(Fact(text, highest[1], MOST_LR, (highest[0], highest[0])))
    short = {g.betas[1] for u in evidence.made for g in u.groups if g.betas is not None and g.betas[1] <= SHORT_BETA2}
    facts += [Fact(f"beta2 is {beta2:g}; in fine-tuning 0.999 is usual", beta2, SHORT_BETA2) for beta2 in sorted(short)]
    return Finding(CAUSE, 0.5, tuple(facts)) if facts else None

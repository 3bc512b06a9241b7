"""Rules about the order of calls in the training loop."""

from __future__ import annotations

from gradstep.monitor.doctor.evidence import Evidence
from gradstep.monitor.doctor.finding import DIVERGENCE, EVERY_READING, Cause, Fact, Finding, Severity

GRADIENTS_NOT_CLEARED = Cause(
    "gradients_not_cleared",
    "gradients are never cleared",
    Severity.CRITICAL,
    "backward() adds to the gradients that are there. Without zero_grad() each update uses the sum of all batches "
    "so far: a momentum that forgets nothing, so that the loss swings or runs away.",
    "Call optimizer.zero_grad() once per update, before backward() or after step(); to accumulate micro-batches "
    "on purpose, clear after every step, or let gradstep.Stepper do both.",
    DIVERGENCE | {"lr_too_low"},
    EVERY_READING,
)


NOT_CLEARED_SHARE = 0.5
"""Least share of updates with uncleared gradients: clearing once per epoch is too seldom, forgetting it once does
little harm. A choice."""

NOT_CLEARED_UPDATES = 3


def gradients_not_cleared(evidence: Evidence) -> Finding | None:
    """Find gradients that stayed through every backward pass until the next step; observed directly, not inferred."""
    observed = [u for u in evidence.made if u.uncleared is not None]
    uncleared = [u.update for u in observed if u.uncleared]
    if len(uncleared) < NOT_CLEARED_UPDATES or len(uncleared) < NOT_CLEARED_SHARE * len(observed):
        return None
    share = len(uncleared) / len(observed)
    text = f"in {len(uncleared):,} of {len(observed):,} updates backward() added to the gradients of the step before"
    facts = [Fact(text, share, NOT_CLEARED_SHARE, (uncleared[0], uncleared[-1]))]
    norm = evidence.grad_norm
    if len(norm):
        at, largest = norm.highest
        text = f"the gradient norm was {norm.values[0]:.3g} in the first update, and {largest:.3g} at its largest"
        facts.append(Fact(text, largest, updates=(at, at)))
    return Finding(GRADIENTS_NOT_CLEARED, share, tuple(facts))


STEP_WITHOUT_GRADIENT = Cause(
    "step_without_gradient",
    "step() finds no gradients",
    Severity.CRITICAL,
    "An update without a gradient changes nothing, or only decays the weights. step() comes before backward(), or "
    "zero_grad() between the two, or backward() is missing, or the optimizer holds other tensors than the model "
    "that is trained.",
    "Keep the order zero_grad(), backward(), step(); make the optimizer after the model has been moved, wrapped "
    "or replaced.",
    frozenset(
        {
            "no_gradient",
            "frozen_but_decayed",
            "gradients_vanished",
            "lr_too_low",
            "lost_to_rounding",
            "weights_shrinking",
        }
    ),
    EVERY_READING,
)


EMPTY_SHARE = 0.9
"""Least share of updates without a gradient. A choice."""

EMPTY_UPDATES = 10


def step_without_gradient(evidence: Evidence) -> Finding | None:
    """Find no gradient, or an exact zero, in nearly all updates, or a first update with a loss and no gradient."""
    made = evidence.made
    if len(made) < EMPTY_UPDATES:
        return None
    empty = [u for u in made if not u.elements or u.grad_norm == 0]
    if len(empty) >= EMPTY_SHARE * len(made):
        text = f"{len(empty):,} of {len(made):,} updates had no gradient, or one of zero"
        return Finding(
            STEP_WITHOUT_GRADIENT,
            1.0,
            (Fact(text, len(empty) / len(made), EMPTY_SHARE, (empty[0].update, empty[-1].update)),),
        )
    first = made[0]
    if first.update == 0 and first.elements == 0 and first.loss is not None and made[1].elements:
        text = "the first update had a loss and no gradient; later ones use the gradient of the batch before"
        return Finding(STEP_WITHOUT_GRADIENT, 0.5, (Fact(text, 0.0, updates=(0, 0)),))
    return None


STEPPED_TWICE = Cause(
    "stepped_twice",
    "two optimizers step the same weights",
    Severity.CRITICAL,
    "Between two steps of this optimizer another one has stepped some of the same weights: each undoes or doubles "
    "what the other does, and neither's learning rate means what it says.",
    "Give every parameter to exactly one optimizer: split model.parameters() between them, or drop the second one "
    "and use parameter groups.",
    frozenset({"lr_too_high", "gradients_exploding", "spike", "weights_growing", "weights_shrinking", "not_finite"}),
    frozenset({"loss", "weight norm"}),
)


STEPPED_TWICE_SHARE = 0.5
"""Least share of updates with another optimizer: one that takes over for a part of the run is intended. A choice."""

STEPPED_TWICE_UPDATES = 10


def stepped_twice(evidence: Evidence) -> Finding | None:
    """Find another optimizer that stepped some of the same parameters between most updates."""
    others = [u for u in evidence.made if u.other_optimizer]
    if len(others) < STEPPED_TWICE_UPDATES or len(others) < STEPPED_TWICE_SHARE * len(evidence.made):
        return None
    names = ", ".join(sorted({u.other_optimizer for u in others}))
    text = (
        f"{names} stepped some of {evidence.header.optimizer}'s parameters between {len(others):,} of "
        f"{len(evidence.made):,} updates"
    )
    return Finding(STEPPED_TWICE, 1.0, (Fact(text, float(len(others)), 0.0, (others[0].update, others[-1].update)),))

"""Rules about the order of calls in the training loop, and about parameters that do not learn."""

import numpy as np
from numpy.typing import NDArray

from gradstep.monitor.doctor.evidence import Evidence
from gradstep.monitor.doctor.finding import DIVERGENCE, EVERY_READING, Fact, Signs, describe_fall, finds, join_names

NOT_CLEARED_SHARE = 0.5
"""Least share of updates with uncleared gradients: clearing once per epoch is too seldom, forgetting it once does
little harm. A choice."""

NOT_CLEARED_UPDATES = 3


@finds(explains=DIVERGENCE | {"lr_too_low"}, spoils=EVERY_READING)
def gradients_not_cleared(evidence: Evidence) -> Signs:
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
    return share, facts


EMPTY_SHARE = 0.9
"""Least share of updates without a gradient. A choice."""

EMPTY_UPDATES = 10


@finds(
    explains={
        "no_gradient",
        "dead_layer",
        "frozen_but_decayed",
        "gradients_vanished",
        "lr_too_low",
        "lost_to_rounding",
        "weights_shrinking",
    },
    spoils=EVERY_READING,
)
def step_without_gradient(evidence: Evidence) -> Signs:
    """Find no gradient, or an exact zero, in nearly all updates, or a first update with a loss and no gradient."""
    made = evidence.made
    if len(made) < EMPTY_UPDATES:
        return None
    empty = [u for u in made if not u.elements or u.grad_norm == 0]
    if len(empty) >= EMPTY_SHARE * len(made):
        text = f"{len(empty):,} of {len(made):,} updates had no gradient, or one of zero"
        return 1.0, (Fact(text, len(empty) / len(made), EMPTY_SHARE, (empty[0].update, empty[-1].update)),)
    first = made[0]
    if first.update == 0 and first.elements == 0 and first.loss is not None and made[1].elements:
        text = "the first update had a loss and no gradient; later ones use the gradient of the batch before"
        return 0.5, (Fact(text, 0.0, updates=(0, 0)),)
    return None


STEPPED_TWICE_SHARE = 0.5
"""Least share of updates with another optimizer: one that takes over for a part of the run is intended. A choice."""

STEPPED_TWICE_UPDATES = 10


@finds(
    explains={"lr_too_high", "gradients_exploding", "spike", "weights_growing", "weights_shrinking", "not_finite"},
    spoils={"loss", "weight norm"},
)
def stepped_twice(evidence: Evidence) -> Signs:
    """Find another optimizer that stepped some of the same parameters between most updates."""
    others = [u for u in evidence.made if u.other_optimizer]
    if len(others) < STEPPED_TWICE_UPDATES or len(others) < STEPPED_TWICE_SHARE * len(evidence.made):
        return None
    names = ", ".join(sorted({u.other_optimizer for u in others}))
    text = (
        f"{names} stepped some of {evidence.header.optimizer}'s parameters between {len(others):,} of "
        f"{len(evidence.made):,} updates"
    )
    return 1.0, (Fact(text, float(len(others)), 0.0, (others[0].update, others[-1].update)),)


@finds(explains={"lr_too_low"})
def not_registered(evidence: Evidence) -> Signs:
    """Find trainable parameters of the model that no group holds; needs no threshold."""
    missing = [p for p in evidence.header.unregistered if p.requires_grad]
    if not missing:
        return None
    elements = sum(p.elements for p in missing)
    trained = sum(p.elements for p in evidence.header.parameters)
    share = elements / (elements + trained)
    names = join_names(p.name for p in missing)
    text = f"{names}: {elements:,} numbers, {share:.0%} of the model, are in no parameter group"
    return 1.0, (Fact(text, share),)


NO_GRADIENT_UPDATES = 10
"""Least number of updates: in fewer, a branch that is used only sometimes may be unused. A choice."""


@finds(explains={"lr_too_low"})
def no_gradient(evidence: Evidence) -> Signs:
    """Find trainable parameters in the optimizer without a gradient in any update; by group without single numbers."""
    if len(evidence.made) < NO_GRADIENT_UPDATES or evidence.span is None:
        return None
    if evidence.has_parameters:
        seen = {int(i) for u in evidence.made if u.parameters is not None for i in u.parameters.index}
        unused = [p for i, p in enumerate(evidence.header.parameters) if i not in seen and p.requires_grad]
        if not unused:
            return None
        names, elements = join_names(p.name for p in unused), sum(p.elements for p in unused)
    else:
        trainable = sum(p.elements for p in evidence.header.parameters if p.requires_grad)
        elements = trainable - max(u.elements for u in evidence.made)
        if elements <= 0 or not any(u.elements for u in evidence.made):
            return None
        names = "parameters (record them singly to see which)"
    text = f"{names}: {elements:,} numbers had no gradient in any update"
    return 1.0, (Fact(text, elements, 0, evidence.span),)


DEAD_FALL = 0.3
"""A loss that fell by more than this share of its start is not stuck: tensors may be frozen on purpose. A choice."""


@finds(explains={"frozen_but_decayed", "gradients_vanished", "lr_too_low", "weights_shrinking"}, spoils={"loss"})
def dead_layer(evidence: Evidence) -> Signs:
    """Find matrices whose gradient is exactly zero from the first update on, in a run whose loss is stuck.

    Parameters with a gradient of zero in a run that learns may be frozen by hand (see frozen_but_decayed).
    """
    if not evidence.has_parameters or evidence.fall is None or evidence.fall > DEAD_FALL:
        return None
    _, gradients = evidence.of_parameters("grad_norm")
    dead = [
        parameter
        for column, parameter in enumerate(evidence.header.parameters)
        if len(parameter.shape) >= 2 and _stays_zero(gradients[:, column])
    ]
    if not dead:
        return None
    text = f"{join_names(p.name for p in dead)}: a gradient of exactly 0 in every element"
    facts = (
        Fact(text, float(sum(p.elements for p in dead)), 0.0, evidence.span),
        Fact(f"the loss {describe_fall(evidence.fall)}", evidence.fall, DEAD_FALL, evidence.loss.span),
    )
    return 1.0, facts


def _stays_zero(gradient: NDArray[np.float64]) -> bool:
    """Return whether a tensor's gradient norm is zero at the first update that has one, and in nearly all others."""
    present = gradient[~np.isnan(gradient)]
    return len(present) >= FROZEN_UPDATES and present[0] == 0 and bool(np.mean(present == 0) >= FROZEN_SHARE)


FROZEN_SHARE = 0.9
"""Least share of updates with a gradient of exactly zero, in the whole tensor: dead units or unused rows do not count.
A choice."""

FROZEN_UPDATES = 10


@finds(explains={"weights_shrinking"})
def frozen_but_decayed(evidence: Evidence) -> Signs:
    """Find tensors in groups with decay whose gradient is zero at first and nearly always, and whose norm has fallen.

    A gradient that comes to be zero is that of a network that has died.
    """
    if not evidence.has_parameters:
        return None
    updates, gradients = evidence.of_parameters("grad_norm")
    _, weights = evidence.of_parameters("weight_norm")
    facts, names = [], []
    for column, parameter in enumerate(evidence.header.parameters):
        present = ~np.isnan(gradients[:, column])
        gradient, weight = gradients[present, column], weights[present, column]
        if evidence.decay_of(parameter) <= 0 or not _stays_zero(gradient) or not weight[-1] < weight[0]:
            continue
        names.append(parameter.name)
        rest = float(weight[-1] / weight[0])
        text = f"{parameter.name}: gradient 0 in {np.mean(gradient == 0):.0%} of the updates, norm down to {rest:.3%}"
        facts.append(Fact(text, rest, 1.0, (int(updates[present][0]), int(updates[present][-1]))))
    if len(facts) > 3:
        facts = [Fact(f"gradient 0 and norm falling: {join_names(names)}", float(len(names)), 0.0, evidence.span)]
    return 1.0, facts

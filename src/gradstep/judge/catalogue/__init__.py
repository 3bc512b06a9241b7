"""The known mistakes and conventions, each a kind of edit that is made in every rule that has a place for it."""

from __future__ import annotations

from functools import cache

from gradstep.judge.algebra.anatomy import NotFoundError
from gradstep.judge.catalogue import (
    adaptive,
    averages,
    corrections,
    decay,
    driving,
    epsilons,
    gradients,
    momentum,
    particular,
    settings,
    state,
)
from gradstep.judge.catalogue.likeness import distinct
from gradstep.judge.catalogue.mistake import CONVENTIONS, Mistake, Variant, variant, variants
from gradstep.rules import Rule

__all__ = ["CONVENTIONS", "MISTAKES", "Mistake", "Variant", "catalogue", "distinct", "variant", "variants"]

MISTAKES: tuple[Mistake, ...] = (
    *corrections.MISTAKES,
    *decay.MISTAKES,
    *epsilons.MISTAKES,
    *adaptive.MISTAKES,
    *particular.MISTAKES,
    *averages.MISTAKES,
    *state.MISTAKES,
    state.UNMOVED,
    *momentum.MISTAKES,
    *gradients.MISTAKES,
    *driving.MISTAKES,
)
"""Every mistake, the likeliest first within its kind; a mistake in the use of a setting is made per rule."""


@cache
def catalogue(rule: type[Rule]) -> tuple[Variant, ...]:
    """Every known mistake and convention that this rule can be written with, one at a time.

    Some do in this rule what another one before them does; :func:`distinct` leaves those out.

    >>> from gradstep.rules import Lion
    >>> catalogue(Lion)[0].sentence
    'Lion with a bias correction that the rule does not have'
    """
    found: list[Variant] = []
    for mistake in (*MISTAKES, *settings.of(rule)):
        try:
            found.append(variant(rule, (mistake,)))
        except NotFoundError:
            continue
    return tuple(found)

"""The known mistakes and conventions, each written once for all rules whose lines it can be made in."""

from __future__ import annotations

from functools import cache

from gradstep.judge.catalogue import averages, corrections, decay, driving, epsilons, momentum, particular, settings
from gradstep.judge.catalogue.mistake import CONVENTIONS, Mistake, Variant, variant
from gradstep.judge.rewrite import NotFoundError
from gradstep.rules import Rule

__all__ = ["CONVENTIONS", "MISTAKES", "Mistake", "Variant", "catalogue", "variant"]

MISTAKES: tuple[Mistake, ...] = (
    *corrections.MISTAKES,
    *decay.MISTAKES,
    *epsilons.MISTAKES,
    *averages.MISTAKES,
    *momentum.MISTAKES,
    *particular.MISTAKES,
    *driving.MISTAKES,
)
"""Every mistake, the likeliest first within its kind; a mistake in the use of a setting is made per rule."""


@cache
def catalogue(rule: type[Rule]) -> tuple[Variant, ...]:
    """Every known mistake and convention that this rule can be written with, one at a time.

    >>> from gradstep.rules import Lion
    >>> catalogue(Lion)[0].sentence
    'Lion with a bias correction that the rule does not have'
    """
    found = []
    for mistake in (*MISTAKES, *settings.of(rule)):
        try:
            found.append(variant(rule, (mistake,)))
        except NotFoundError:
            continue
    return tuple(found)

"""The known mistakes and conventions: each is an edit that applies to every rule with a place for it."""

from functools import cache

from gradstep.judge.catalogue import corrections, decay, momentum, particular, state
from gradstep.judge.catalogue.mistake import CONVENTIONS, Mistake, Variant, distinct, read_mistakes, variants
from gradstep.rules import Rule

__all__ = ["CONVENTIONS", "MISTAKES", "Mistake", "Variant", "catalogue", "distinct", "variants"]

KINDS = (corrections, decay, particular, state, momentum)

MISTAKES = read_mistakes({name: change for kind in KINDS for name, change in kind.CHANGES.items()})
"""Every mistake except those of single settings, which depend on the rule; the likeliest first within each kind."""


@cache
def catalogue(rule: type[Rule]) -> tuple[Variant, ...]:
    """Return the rule with each known mistake or convention that it can have, one at a time.

    Some do the same as an earlier one in this rule; :func:`distinct` leaves those out.

    >>> from gradstep.rules import Lion
    >>> catalogue(Lion)[0].sentence
    'Lion with a bias correction that the rule does not have'
    """
    return tuple(v for m in (*MISTAKES, *state.mistakes_of_settings(rule)) for v in variants(rule, (m,)))

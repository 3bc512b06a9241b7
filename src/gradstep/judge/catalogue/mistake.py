"""What a known mistake is, and a rule with some of them in it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, TypeAlias, final, get_args

from gradstep.judge.formula import Change, Formula, changed
from gradstep.judge.rewrite import Edit, NotFoundError
from gradstep.rules import Rule

Convention: TypeAlias = Literal["torch", "paper", "optax", "tinytorch", "keras", "huggingface", "bitsandbytes"]

CONVENTIONS: tuple[str, ...] = get_args(Convention)
"""Whose reading of a rule may count as right. ``torch`` is the rule as gradstep has it."""


@final
@dataclass(frozen=True)
class Mistake:
    """A known way to write a rule differently; an error, unless some convention has it so.

    Attributes:
        name: for machines, in kebab-case.
        sentence: what is different, to follow "matches AdamW with …".
        look_for: what to look for in the code, and what to put there.
        read: where it is explained.
        ways: the same mistake as it is made in rules of different form; the first that applies is taken.
        only: names of the rules that it is for; empty for every rule that it can be made in.
        conventions: who writes the rule like this on purpose, and for which rules (none named: for all).
    """

    name: str
    sentence: str
    look_for: str
    read: str
    ways: tuple[Change, ...]
    only: tuple[str, ...] = ()
    conventions: tuple[tuple[Convention, tuple[str, ...]], ...] = ()

    def conventions_of(self, rule: type[Rule]) -> tuple[str, ...]:
        """Whose convention it is for this rule; empty where it is simply wrong."""
        return tuple(whose for whose, rules in self.conventions if not rules or rule.__name__ in rules)


@final
@dataclass(frozen=True)
class Variant:
    """A rule with known mistakes in it, ready to run."""

    mistakes: tuple[Mistake, ...]
    formula: Formula

    @property
    def name(self) -> str:
        """The mistakes' names."""
        return " + ".join(m.name for m in self.mistakes) or "as it should be"

    @property
    def sentence(self) -> str:
        """The rule and what is different in it."""
        differences = ", and ".join(m.sentence for m in self.mistakes)
        return self.formula.rule.__name__ + (f" with {differences}" if differences else "")

    @property
    def conventions(self) -> tuple[str, ...]:
        """Who has all of it so; empty if nobody has."""
        of = [set(m.conventions_of(self.formula.rule)) for m in self.mistakes]
        if not of or not all(of):
            return ()
        shared = set.intersection(*of)
        return tuple(name for name in CONVENTIONS if name in shared)


@cache
def variant(rule: type[Rule], mistakes: tuple[Mistake, ...]) -> Variant:
    """The rule with these mistakes, made in the order given or, failing that, in the opposite one.

    Raises:
        NotFoundError: they cannot be made in this rule, or not together.
    """
    try:
        return Variant(mistakes, _with(rule, mistakes))
    except NotFoundError:
        if len(mistakes) < 2:
            raise
        return Variant(mistakes, _with(rule, mistakes[::-1]))


def _with(rule: type[Rule], mistakes: tuple[Mistake, ...]) -> Formula:
    return changed(rule, tuple(_way(rule, mistake) for mistake in mistakes))


@cache
def _way(rule: type[Rule], mistake: Mistake) -> Change:
    """How the mistake is made in this rule; chosen by the rule as it is, so that it is the same in a pair."""
    if not mistake.only or rule.__name__ in mistake.only:
        for way in mistake.ways:
            try:
                changed(rule, (way,))
            except NotFoundError:
                continue
            return way
    raise NotFoundError(f"{mistake.name} is no mistake that {rule.__name__} can have")


def lines(*pairs: tuple[str, str]) -> Change:
    """A change of the rule's lines: (find, replace), all of which must be found."""
    return Change(edits=tuple(Edit(find, replace) for find, replace in pairs))


def habit(**fields: Any) -> Change:
    """A change of the optimizer's habits."""
    return Change(habits=tuple(fields.items()))


def by(*rules: str, of: tuple[Convention, ...]) -> tuple[tuple[Convention, tuple[str, ...]], ...]:
    """Conventions that hold for these rules; for all where none is named."""
    return tuple((whose, rules) for whose in of)


ADAM_PAPER = "Kingma and Ba, arXiv:1412.6980, Algorithm 1"
ADAMW_PAPER = "Loshchilov and Hutter, arXiv:1711.05101, Algorithm 2"

"""What a known mistake is, and a rule with some of them in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import permutations
from typing import Any, Literal, TypeAlias, final, get_args

from gradstep.judge.algebra.anatomy import NotFoundError
from gradstep.judge.algebra.expression import Node
from gradstep.judge.algebra.program import Program
from gradstep.judge.formula import Change, Edit, Formula, changed, examples
from gradstep.rules import Rule

Convention: TypeAlias = Literal[
    "torch", "paper", "optax", "tinytorch", "keras", "huggingface", "bitsandbytes", "textbook"
]

CONVENTIONS: tuple[str, ...] = get_args(Convention)
"""Whose reading of a rule may count as right. ``torch`` is the rule as gradstep has it; ``textbook`` stands for the
listings of tutorials."""


@final
@dataclass(frozen=True)
class Mistake:
    """A known way to write a rule differently; an error, unless some convention has it so.

    Attributes:
        name: for machines, in kebab-case.
        sentence: what is different, to follow "matches AdamW with …".
        look_for: what to look for in the code, and what to put there.
        read: where it is explained.
        edit: of the rule's graph; None where the mathematics of a step stays as it is.
        habits: what is different around a step.
        when: asked of the rule's graph at its own settings, where the mistake can be made in some rules only.
        conventions: who writes the rule like this on purpose, and for which rules (none named: for all).
    """

    name: str
    sentence: str
    look_for: str
    read: str
    edit: Edit | None = None
    habits: tuple[tuple[str, Any], ...] = ()
    when: Callable[[Program], object] | None = None
    conventions: tuple[tuple[Convention, tuple[str, ...]], ...] = ()

    def conventions_of(self, rule: type[Rule]) -> tuple[str, ...]:
        """Whose convention it is for this rule; empty where it is simply wrong."""
        return tuple(whose for whose, rules in self.conventions if not rules or rule.__name__ in rules)

    @property
    def change(self) -> Change:
        """What it does to a rule."""
        return Change(self.edit, self.habits)


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


@lru_cache(maxsize=16384)
def variant(rule: type[Rule], mistakes: tuple[Mistake, ...]) -> Variant:
    """The rule with these mistakes, made in the order given or, failing that, in another.

    Raises:
        NotFoundError: they cannot be made in this rule, or not together.
    """
    for mistake in mistakes:
        if not possible(rule, mistake):
            raise NotFoundError(f"{mistake.name} is no mistake that {rule.__name__} can have")
    found = variants(rule, mistakes)
    if not found:
        raise NotFoundError(f"{' and '.join(m.name for m in mistakes)} cannot be made together in {rule.__name__}")
    return found[0]


@lru_cache(maxsize=16384)
def variants(rule: type[Rule], mistakes: tuple[Mistake, ...]) -> tuple[Variant, ...]:
    """The rule with these mistakes in every order that makes a difference, the order given first."""
    found: list[Variant] = []
    if not all(possible(rule, mistake) for mistake in mistakes):
        return ()
    # Of three and more, only there and back: those that must come first stand first in the catalogue.
    orders = permutations(mistakes) if len(mistakes) < 3 else (mistakes, mistakes[::-1])
    for order in orders:
        try:
            made = Variant(mistakes, changed(rule, tuple(m.change for m in order)))
        except NotFoundError:
            continue
        if not any(_same(made.formula, other.formula) for other in found):
            found.append(made)
        if sum(m.edit is not None for m in mistakes) < 2:
            break
    return tuple(found)


def _same(one: Formula, other: Formula) -> bool:
    """Whether two orders of the same edits come to the same, in the rule's plainest form."""
    rule, ndim = examples(one.rule)[0]
    a, b = one.program(rule, ndim), other.program(rule, ndim)
    return a is not None and b is not None and a.same(b)


@cache
def possible(rule: type[Rule], mistake: Mistake) -> bool:
    """Whether the rule is one in which the mistake can be made: at its own settings, or for a habit at any."""
    if mistake.when is None:
        return True
    forms = examples(rule) if mistake.edit is None else ((rule(), 2),)
    for example, ndim in forms:
        program = Formula(rule).program(example, ndim)
        try:
            if program is not None and mistake.when(program):
                return True
        except NotFoundError:
            continue
    return False


def by(*rules: str, of: tuple[Convention, ...]) -> tuple[tuple[Convention, tuple[str, ...]], ...]:
    """Conventions that hold for these rules; for all where none is named."""
    return tuple((whose, rules) for whose in of)


def habit(**fields: Any) -> tuple[tuple[str, Any], ...]:
    """What is different around a step."""
    return tuple(fields.items())


def replaced(find: Callable[[Program], Node], make: Callable[[Program, Node], Node], *parts: str) -> Edit:
    """An edit that puts an expression in the place of another, wherever it occurs in the parts."""

    def edit(program: Program) -> Program:
        old = find(program)
        new = make(program, old)
        return program.rewriting(lambda n: new if n is old else n, *parts)

    return edit


def of_nodes(change: Callable[[Program, Node], Node], *parts: str) -> Edit:
    """An edit of every node of the parts that ``change`` knows."""

    def edit(program: Program) -> Program:
        return program.rewriting(lambda node: change(program, node), *parts)

    return edit


def both(*edits: Edit) -> Edit:
    """Edits made one after the other; each must find its place."""

    def edit(program: Program) -> Program:
        for each in edits:
            after = each(program)
            if after.same(program):
                raise NotFoundError("one of several edits changes nothing")
            program = after
        return program

    return edit


def if_any(*edits: Edit) -> Edit:
    """Edits made one after the other; those that find no place are left out."""

    def edit(program: Program) -> Program:
        for each in edits:
            try:
                program = each(program)
            except NotFoundError:
                continue
        return program

    return edit


ADAM_PAPER = "Kingma and Ba, arXiv:1412.6980, Algorithm 1"
ADAMW_PAPER = "Loshchilov and Hutter, arXiv:1711.05101, Algorithm 2"
RULE = "the rule's docstring in gradstep.rules"

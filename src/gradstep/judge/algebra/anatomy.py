"""What the pieces of a traced rule are: averages, corrections, denominators, the decay, the size of the step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import final

from gradstep.judge.algebra.expression import (
    ONE,
    Node,
    P,
    add,
    based,
    complement,
    contains,
    elementwise,
    factors,
    linear,
    minus,
    mul,
    number,
    power,
    split,
    terms,
    walk,
)
from gradstep.judge.algebra.program import Program


class NotFoundError(LookupError):
    """A rule has no place where an edit could be made."""


GRADIENT = Node("named", "G", False)
KEEP = Node("named", "keep", False)
MOVE = Node("named", "step", False)

NAMES = {
    "lr": ("lr", "learning_rate", "step_size", "eta"),
    "weight_decay": ("weight_decay", "wd", "decay", "weight_decay_rate"),
    "eps": ("eps", "epsilon"),
    "momentum": ("momentum", "mu"),
}
"""What a rule may call the settings that edits are about."""


def setting(program: Program, role: str) -> Node:
    """The setting with that role.

    Raises:
        NotFoundError: the rule does not use it.
    """
    found = settings(program)
    for name in NAMES[role]:
        if name in found:
            return found[name]
    raise NotFoundError(role)


@lru_cache(maxsize=1024)
def settings(program: Program) -> dict[str, Node]:
    """The settings that the program uses, by name (``betas.0`` for the first of a pair)."""
    return {n.args[0]: n for n in program.nodes() if n.op == "setting"}


def numeric_part(node: Node) -> tuple[Node, Node]:
    """A product as the numbers of it times what has an element for each of the parameter's."""
    scalars = [f for f in factors(node) if f.scalar]
    return mul(*scalars), mul(*(f for f in factors(node) if not f.scalar))


@final
@dataclass(frozen=True)
class Average:
    """A slot that is ``old * kept + fresh * rest`` after the step.

    Attributes:
        name: the part, ``new exp_avg``.
        old: the slot before the step.
        new: the slot after it.
        kept: the weight of the old value, ``β``.
        rest: the weight of what is averaged, ``1 - β`` for an average and ``1`` for a sum.
        fresh: what is averaged.
    """

    name: str
    old: Node
    new: Node
    kept: Node
    rest: Node
    fresh: Node

    @property
    def squared(self) -> bool:
        """Whether it is squares that are averaged."""
        data = [f for f in factors(self.fresh) if not f.scalar]
        data = [n.args[0] if n.op == "mean" else n for n in data]
        return any(based(n)[1] == 2 for n in data)

    @property
    def averaging(self) -> bool:
        """Whether the weights add up to 1."""
        return add(self.kept, self.rest) is ONE


def leaf_of(program: Program, name: str) -> tuple[Node, Node]:
    """A slot's old value and its new one."""
    slot = name.removeprefix("new ")
    found = (n.args[1] for n in program.nodes() if n.op in ("old", "named") and n.args[0] in (slot, name))
    bounded = next(found, False)
    return Node("old", slot, bounded), Node("named", name, bounded)


@lru_cache(maxsize=1024)
def averages(program: Program) -> tuple[Average, ...]:
    """Every slot that is linear in its old value."""
    found = []
    for name in program.slots:
        old, new = leaf_of(program, name)
        kept, added = linear(program[name], old)
        if not kept.scalar:  # what is averaged holds the old value too
            own = [t for t in terms(program[name]) if numeric_part(t)[1] is old]
            kept = add(*(numeric_part(t)[0] for t in own))
            added = add(*(t for t in terms(program[name]) if t not in own))
        if (kept.scalar and kept.op != "number") or kept is ONE:
            rest, fresh = numeric_part(added) if added.op != "add" else (ONE, added)
            if fresh is not ONE:
                found.append(Average(name, old, new, kept, rest, fresh))
    return tuple(found)


def first(program: Program) -> tuple[Average, ...]:
    """The averages of the gradient itself."""
    return tuple(a for a in averages(program) if not a.squared)


def second(program: Program) -> tuple[Average, ...]:
    """The averages of its square."""
    return tuple(a for a in averages(program) if a.squared)


@final
@dataclass(frozen=True)
class Correction:
    """``1 - x`` for an average that starts at 0: ``1 - β**t``, or ``1 - Π μ``."""

    node: Node
    of: Node

    @property
    def beta(self) -> Node | None:
        """β, where it is ``1 - β**t``."""
        return self.of.args[0] if self.of.op == "pow" else None


@lru_cache(maxsize=1024)
def corrections(program: Program) -> tuple[Correction, ...]:
    """Every correction of the step."""
    found = {}
    for node in program.nodes("step"):
        part = complement(node)
        if part is None:
            continue
        steps = part.op == "pow" and part.args[1].op != "number" and any(n.op == "step" for n in walk(part.args[1]))
        if steps or any(n.op == "named" and n.args[0].startswith("memo ") for n in factors(part)):
            found[node] = Correction(node, part)
    return tuple(found.values())


def corrections_of(program: Program, moment: str) -> tuple[Correction, ...]:
    """The corrections of the first (``m``) or the second moment (``v``)."""
    squares = {a.kept for a in second(program)}
    own = {a.kept for a in first(program)}
    found = []
    for c in corrections(program):
        of_second = c.beta in squares and (c.beta not in own or moment == "v")
        if of_second == (moment == "v"):
            found.append(c)
    if not found:
        raise NotFoundError(f"no correction of {moment}")
    return tuple(found)


def correction_of(program: Program, moment: str) -> Correction:
    """The one correction of the moment, by a power of β.

    Raises:
        NotFoundError: there is none, or another kind.
    """
    found = corrections_of(program, moment)
    if len(found) != 1 or found[0].beta is None:
        raise NotFoundError("no correction by a power of beta")
    return found[0]


Exchange = Callable[[Correction, float], Node]
"""What takes the place of a correction raised to a power."""


def exchange(program: Program, moment: str, by: Exchange) -> Program:
    """The program with ``by(correction, exponent)`` for each power of the moment's corrections in the step.

    Raises:
        NotFoundError: there is none.
    """
    known = {c.node: c for c in corrections_of(program, moment)}
    powers = {
        (base, exponent)
        for node in program.nodes("step")
        for base, exponent in map(based, (node, *factors(node)))
        if base in known and (exponent != 1 or node.op == "mul")
    }
    if moment == "v" and any(abs(e) == 0.5 for _, e in powers):
        powers = {(base, e) for base, e in powers if abs(e) == 0.5}

    def edit(node: Node) -> Node:
        if node.op == "pow" and based(node) in powers:
            return by(known[node.args[0]], based(node)[1])
        if node.op == "mul":
            return mul(*(by(known[f], 1.0) if (f, 1.0) in powers else f for f in node.args))
        return node

    return _if_changed(program, program.rewriting(edit, "step"))


def _if_changed(before: Program, after: Program) -> Program:
    if after.same(before):
        raise NotFoundError("nothing to change")
    return after


@final
@dataclass(frozen=True)
class Denominator:
    """``root + eps``, by which the step is divided.

    Attributes:
        node: the sum.
        root: what ε is added to.
        eps: the term with ε.
    """

    node: Node
    root: Node
    eps: Node

    @property
    def correction(self) -> Node:
        """The numbers that the root is multiplied by."""
        return numeric_part(self.root)[0]

    @property
    def bare(self) -> Node:
        """The root without these numbers."""
        return numeric_part(self.root)[1]


def sums_with_eps(program: Program) -> Iterator[Denominator]:
    """Every sum of data and ε."""
    eps = setting(program, "eps")
    seen = set()
    for expression in program.parts.values():
        for node in walk(expression):
            if node.op == "add" and node not in seen and not node.scalar:
                seen.add(node)
                small = [t for t in node.args if t.scalar and contains(t, eps)]
                rest = add(*(t for t in node.args if t not in small))
                if small and not contains(rest, eps):
                    yield Denominator(node, rest, add(*small))


def denominators(program: Program) -> tuple[Denominator, ...]:
    """Every ``sqrt(v) + eps``.

    Raises:
        NotFoundError: there is none.
    """
    found = tuple(d for d in sums_with_eps(program) if based(d.bare)[1] == 0.5)
    if not found:
        raise NotFoundError("no root with eps beside it")
    return found


def of_denominators(program: Program, make: Callable[[Denominator], Node]) -> Program:
    """The program with something else for every ``sqrt(v) + eps``."""
    made = {d.node: make(d) for d in denominators(program)}
    return _if_changed(program, program.rewriting(lambda n: made.get(n, n)))


def decoupled(program: Program) -> Node:
    """The decay on the weight, ``lr * weight_decay``.

    Raises:
        NotFoundError: the weight itself does not decay.
    """
    taken = minus(ONE, program["keep"])
    setting(program, "weight_decay")
    if not contains(taken, setting(program, "weight_decay")):
        raise NotFoundError("no decay on the weight")
    return taken


def coupled(program: Program) -> Node:
    """The decay in the gradient, by which the weight is multiplied.

    Raises:
        NotFoundError: there is none.
    """
    scale, _ = linear(program["G"], P)
    if not contains(scale, setting(program, "weight_decay")):
        raise NotFoundError("no decay in the gradient")
    return scale


def step_size(program: Program) -> Node:
    """What multiplies the step and is no data: the learning rate, its corrections, the parameter's size."""
    common = None
    for term in terms(program["step"]):
        size = mul(*(f for f in factors(term) if not elementwise(f) and not _of_gradient(f)))
        common = size if common is None or common is size else ONE
    return common if common is not None else ONE


def _of_gradient(node: Node) -> bool:
    return any(n.op in ("named", "old", "g") for n in walk(node))


def without(node: Node, factor: Node) -> Node:
    """A sum whose every term is divided by the factor, which must be in each.

    Raises:
        NotFoundError: some term does not have it.
    """
    found = []
    for term in terms(node):
        own = factors(term)
        if factor in own:
            found.append(mul(*(f for f in own if f is not factor)))
            continue
        inner = next((f for f in own if f.op == "add" and all(factor in factors(t) for t in f.args)), None)
        if inner is None:
            raise NotFoundError("a term without that factor")
        found.append(mul(without(inner, factor), *(f for f in own if f is not inner)))
    return add(*found)


def raised(node: Node, exponent: float) -> Node:
    """The node to the power of a number."""
    return power(node, number(exponent))


__all__ = [
    "GRADIENT",
    "KEEP",
    "MOVE",
    "Average",
    "Correction",
    "Denominator",
    "NotFoundError",
    "averages",
    "corrections",
    "corrections_of",
    "coupled",
    "decoupled",
    "denominators",
    "exchange",
    "first",
    "leaf_of",
    "numeric_part",
    "of_denominators",
    "raised",
    "second",
    "setting",
    "settings",
    "split",
    "step_size",
    "sums_with_eps",
    "without",
]

"""Find the pieces of a traced rule: averages, corrections, denominators, the decay, the size of the step.

What is named in the singular, and what is to be replaced, must be there: :class:`NotFoundError` says that it is not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar, final

from gradstep.judge.algebra.expression import (
    ONE,
    Node,
    P,
    add,
    complement,
    contains,
    elementwise,
    factors,
    linear,
    mul,
    split_power,
    terms,
    walk,
)
from gradstep.judge.algebra.program import Program


class NotFoundError(LookupError):
    """The rule has no place for an edit."""


Found = TypeVar("Found")


def require(found: Found | None, what: str) -> Found:
    """Return ``found``; raise :class:`NotFoundError` with ``what`` it is if that is None, False or empty."""
    if not found:
        raise NotFoundError(f"no {what}")
    return found


def only(found: Iterable[Found], what: str) -> Found:
    """Return the one item of ``found``; raise :class:`NotFoundError` if there is none, or if there are several."""
    items = list(found)
    require(len(items) == 1, f"one {what}")
    return items[0]


NAMES = {
    "lr": ("lr", "learning_rate", "step_size", "eta"),
    "weight_decay": ("weight_decay", "wd", "decay", "weight_decay_rate"),
    "eps": ("eps", "epsilon"),
}
"""Names that a rule may give to the settings that edits look for."""


def setting(program: Program, role: str) -> Node:
    """Return the setting with this role, a key of ``NAMES``."""
    by_name = settings(program)
    for name in NAMES[role]:
        if name in by_name:
            return by_name[name]
    raise NotFoundError(role)


@lru_cache(maxsize=1024)
def settings(program: Program) -> dict[str, Node]:
    """Return the settings that the program uses, by name (``betas.0`` for the first of a pair)."""
    return {n.args[0]: n for n in program.nodes() if n.op == "setting"}


def split_scalars(node: Node) -> tuple[Node, Node]:
    """Split a product into its scalar factors and its array factors."""
    scalars = [f for f in factors(node) if f.scalar]
    return mul(*scalars), mul(*(f for f in factors(node) if not f.scalar))


@final
@dataclass(frozen=True)
class Average:
    """A slot that is ``old_weight * old + new_weight * value`` after the step.

    Attributes:
        name: name of the part, such as ``new exp_avg``.
        old: the slot before the step.
        new: the slot after it.
        old_weight: ``β``.
        new_weight: ``1 - β`` for an average and ``1`` for a sum.
        value: the averaged value, such as the gradient or its square.
    """

    name: str
    old: Node
    new: Node
    old_weight: Node
    new_weight: Node
    value: Node

    @property
    def of_squares(self) -> bool:
        """Whether the averaged values are squares."""
        data = [f for f in factors(self.value) if not f.scalar]
        data = [n.args[0] if n.op == "mean" else n for n in data]
        return any(split_power(n)[1] == 2 for n in data)

    @property
    def is_average(self) -> bool:
        """Whether the weights add up to 1."""
        return self.old_weight + self.new_weight is ONE

    def plus(self, addend: Node) -> Node:
        """Return ``old_weight * old + addend``."""
        return self.old_weight * self.old + addend


def slot_leaves(program: Program, name: str) -> tuple[Node, Node]:
    """Return the leaves of a slot's old value and of its new one."""
    slot = name.removeprefix("new ")
    signs = (n.args[1] for n in program.nodes() if n.op in ("old", "named") and n.args[0] in (slot, name))
    nonnegative = next(signs, False)
    return Node("old", slot, nonnegative), Node("named", name, nonnegative)


@lru_cache(maxsize=1024)
def averages(program: Program) -> tuple[Average, ...]:
    """Return every slot that is linear in its old value."""
    slots = []
    for name in program.slots:
        old, new = slot_leaves(program, name)
        old_weight, added = linear(program[name], old)
        if not old_weight.scalar:  # the averaged value holds the old value too
            own = [t for t in terms(program[name]) if split_scalars(t)[1] is old]
            old_weight = add(*(split_scalars(t)[0] for t in own))
            added = add(*(t for t in terms(program[name]) if t not in own))
        if (old_weight.scalar and old_weight.op != "number") or old_weight is ONE:
            new_weight, value = split_scalars(added) if added.op != "add" else (ONE, added)
            if value is not ONE:
                slots.append(Average(name, old, new, old_weight, new_weight, value))
    return tuple(slots)


def first_moments(program: Program) -> tuple[Average, ...]:
    """Return the averages and sums of the gradient."""
    return tuple(a for a in averages(program) if not a.of_squares)


def second_moments(program: Program) -> tuple[Average, ...]:
    """Return the averages and sums of squares."""
    return tuple(a for a in averages(program) if a.of_squares)


@final
@dataclass(frozen=True)
class Correction:
    """The bias correction ``1 - of`` of an average that starts at 0: ``1 - β**t``, or ``1 - Π μ``."""

    node: Node
    of: Node

    @property
    def beta(self) -> Node | None:
        """β if the correction is ``1 - β**t``, else None."""
        return self.of.args[0] if self.of.op == "pow" else None


@lru_cache(maxsize=1024)
def corrections(program: Program) -> tuple[Correction, ...]:
    """Return every bias correction in the step."""
    by_node = {}
    for node in program.nodes("step"):
        part = complement(node)
        if part is None:
            continue
        is_power = part.op == "pow" and part.args[1].op != "number" and any(n.op == "step" for n in walk(part.args[1]))
        if is_power or any(n.op == "named" and n.args[0].startswith("memo ") for n in factors(part)):
            by_node[node] = Correction(node, part)
    return tuple(by_node.values())


def corrections_of(program: Program, moment: str) -> tuple[Correction, ...]:
    """Return the corrections of the first (``m``) or the second moment (``v``)."""
    squares = {a.old_weight for a in second_moments(program)}
    gradients = {a.old_weight for a in first_moments(program)}
    own = []
    for c in corrections(program):
        of_second = c.beta in squares and (c.beta not in gradients or moment == "v")
        if of_second == (moment == "v"):
            own.append(c)
    return tuple(require(own, f"correction of {moment}"))


def correction_of(program: Program, moment: str) -> Correction:
    """Return the one correction ``1 - β**t`` of the moment (``m`` or ``v``)."""
    own = only(corrections_of(program, moment), f"correction of {moment}")
    require(own.beta, "power of beta")
    return own


Replacement = Callable[[Correction, float], Node]
"""Returns the replacement of a correction raised to an exponent."""


def replace_corrections(program: Program, moment: str, by: Replacement) -> Program:
    """Replace each power of the moment's corrections in the step by ``by(correction, exponent)``."""
    own = {c.node: c for c in corrections_of(program, moment)}
    powers = {
        (base, exponent)
        for node in program.nodes("step")
        for base, exponent in map(split_power, (node, *factors(node)))
        if base in own and (exponent != 1 or node.op == "mul")
    }
    if moment == "v" and any(abs(e) == 0.5 for _, e in powers):
        powers = {(base, e) for base, e in powers if abs(e) == 0.5}

    def edit(node: Node) -> Node:
        if node.op == "pow" and split_power(node) in powers:
            return by(own[node.args[0]], split_power(node)[1])
        if node.op == "mul":
            return mul(*(by(own[f], 1.0) if (f, 1.0) in powers else f for f in node.args))
        return node

    return _require_change(program, program.rewrite(edit, "step"))


def _require_change(before: Program, after: Program) -> Program:
    require(not after.same(before), "change")
    return after


@final
@dataclass(frozen=True)
class Denominator:
    """A sum ``root + eps`` by which the step is divided.

    Attributes:
        node: the sum.
        root: the sum without ε.
        eps: the term with ε.
    """

    node: Node
    root: Node
    eps: Node

    @property
    def correction(self) -> Node:
        """The scalar factors of the root."""
        return split_scalars(self.root)[0]

    @property
    def bare_root(self) -> Node:
        """The root without its scalar factors."""
        return split_scalars(self.root)[1]


def sums_with_eps(program: Program) -> Iterator[Denominator]:
    """Yield every sum of an array and ε."""
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


def replace_denominators(program: Program, make: Callable[[Denominator], Node]) -> Program:
    """Replace every ``sqrt(v) + eps`` by ``make`` of it."""
    replacements = {d.node: make(d) for d in sums_with_eps(program) if split_power(d.bare_root)[1] == 0.5}
    return _require_change(program, program.rewrite(lambda n: replacements.get(n, n)))


def decoupled_decay(program: Program) -> Node:
    """Return the factor of the decay on the weight, ``lr * weight_decay``."""
    decay = 1 - program["keep"]
    require(contains(decay, setting(program, "weight_decay")), "decay on the weight")
    return decay


def coupled_decay(program: Program) -> Node:
    """Return the factor of the weight that is added to the gradient, ``weight_decay``."""
    scale, _ = linear(program["G"], P)
    require(contains(scale, setting(program, "weight_decay")), "decay in the gradient")
    return scale


def step_size(program: Program) -> Node:
    """Return the factors of the step that are not elementwise: learning rate, corrections, the parameter's size."""
    common = None
    for term in terms(program["step"]):
        size = mul(*(f for f in factors(term) if not elementwise(f) and not _of_gradient(f)))
        common = size if common is None or common is size else ONE
    return common if common is not None else ONE


def _of_gradient(node: Node) -> bool:
    return any(n.op in ("named", "old", "g") for n in walk(node))


def divide_terms(node: Node, factor: Node) -> Node:
    """Divide every term of a sum by a factor that all of them have."""
    quotients = []
    for term in terms(node):
        own = factors(term)
        if factor in own:
            quotients.append(mul(*(f for f in own if f is not factor)))
            continue
        inner = next((f for f in own if f.op == "add" and all(factor in factors(t) for t in f.args)), None)
        divided = divide_terms(require(inner, "such factor in a term"), factor)
        quotients.append(mul(divided, *(f for f in own if f is not inner)))
    return add(*quotients)

"""A traced rule as named expressions, with its settings, averages and corrections; and how pieces of it are replaced.

What returns one piece of the rule raises :class:`NotFoundError` if the rule does not have it; what returns several
returns none then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeAlias, TypeVar, final

from gradstep.judge.algebra.expression import ONE, STEP, ZERO, Node, NodeEdit, P, add, mul
from gradstep.judge.algebra.recording import WHOLE, Tape


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


@final
@dataclass(frozen=True)
class Average:
    """A slot that is ``old_weight * old + new_weight * value`` after the step."""

    name: str  # name of the part, such as ``new exp_avg``
    old: Node  # the slot before the step
    new: Node  # the slot after it
    old_weight: Node  # ``β``
    new_weight: Node  # ``1 - β`` for an average and ``1`` for a sum
    value: Node  # the averaged value, such as the gradient or its square

    @property
    def of_squares(self) -> bool:
        """Whether the averaged values are squares."""
        data = [f for f in self.value.factors if not f.scalar]
        data = [n.args[0] if n.op == "mean" else n for n in data]
        return any(n.split_power()[1] == 2 for n in data)

    @property
    def is_average(self) -> bool:
        """Whether the weights add up to 1, on both sides of a branch on the step or a setting."""
        return _add_up_to_one(self.old_weight, self.new_weight)

    def plus(self, addend: Node) -> Node:
        """Return ``old_weight * old + addend``."""
        return self.old_weight * self.old + addend


def _add_up_to_one(one: Node, other: Node) -> bool:
    if one.op == other.op == "ite" and one.args[0] is other.args[0]:
        return all(map(_add_up_to_one, one.args[1:], other.args[1:]))
    return one + other is ONE


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


@final
@dataclass(frozen=True, eq=False)
class Program:
    """Named expressions that compute one step of a rule; see :func:`~gradstep.judge.algebra.trace.trace`."""

    parts: Mapping[str, Node]  # the expressions by name
    # the value of each slot and of each scalar of the state before the first step
    first: Mapping[str, Node] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Node:
        return self.parts[name]

    def replace(self, **parts: Node) -> Program:
        """Return a copy with other expressions for these parts."""
        return Program({**self.parts, **parts}, self.first)

    def replace_part(self, name: str, expression: Node) -> Program:
        """Return a copy with another expression for one part, whose name need not be an identifier."""
        return self.replace(**{name: expression})

    def rewrite(self, edit: NodeEdit, *names: str) -> Program:
        """Apply ``edit`` to every node of these parts, by default of all; ``step`` includes ``update``."""
        if "step" in names:
            names = (*names, "update")
        return self.replace(**{n: e.rewrite(edit) for n, e in self.parts.items() if not names or n in names})

    def first_value(self, name: str) -> Node:
        """Return the value of a slot or a scalar of the state before the first step."""
        return self.first.get(name, ZERO)

    def same(self, other: Program) -> bool:
        """Whether every part is the same expression in both."""
        return all(e is other.parts[n] for n, e in self.parts.items())

    def nodes(self, *names: str) -> Iterator[Node]:
        """Yield every node of these parts, by default of all; ``step`` includes ``update``."""
        for name, expression in self.parts.items():
            if not names or name in names or (name == "update" and "step" in names):
                yield from expression.walk()

    @property
    def slots(self) -> tuple[str, ...]:
        """Names of the parts that are state."""
        return tuple(n for n in self.parts if n.startswith("new "))

    def setting(self, role: str) -> Node:
        """Return the setting with this role, a key of ``NAMES``."""
        by_name = self.settings
        for name in NAMES[role]:
            if name in by_name:
                return by_name[name]
        raise NotFoundError(role)

    @cached_property
    def settings(self) -> dict[str, Node]:
        """Return the settings that the program uses, by name (``betas.0`` for the first of a pair)."""
        return {n.args[0]: n for n in self.nodes() if n.op == "setting"}

    def slot_leaves(self, name: str) -> tuple[Node, Node]:
        """Return the leaves of a slot's old value and of its new one."""
        slot = name.removeprefix("new ")
        signs = (n.args[1] for n in self.nodes() if n.op in ("old", "named") and n.args[0] in (slot, name))
        nonnegative = next(signs, False)
        return Node("old", slot, nonnegative), Node("named", name, nonnegative)

    @cached_property
    def averages(self) -> tuple[Average, ...]:
        """Return every slot that is linear in its old value."""
        slots = []
        for name in self.slots:
            old, new = self.slot_leaves(name)
            old_weight, added = self[name].linear(old)
            if not old_weight.scalar:  # the averaged value holds the old value too
                own = [t for t in self[name].terms if t.split_scalars()[1] is old]
                old_weight = add(*(t.split_scalars()[0] for t in own))
                added = add(*(t for t in self[name].terms if t not in own))
            if (old_weight.scalar and old_weight.op != "number") or old_weight is ONE:
                new_weight, value = added.split_scalars() if added.op != "add" else (ONE, added)
                if value is not ONE:
                    slots.append(Average(name, old, new, old_weight, new_weight, value))
        return tuple(slots)

    @property
    def first_moments(self) -> tuple[Average, ...]:
        """Return the averages and sums of the gradient."""
        return tuple(a for a in self.averages if not a.of_squares)

    @property
    def second_moments(self) -> tuple[Average, ...]:
        """Return the averages and sums of squares."""
        return tuple(a for a in self.averages if a.of_squares)

    @cached_property
    def corrections(self) -> tuple[Correction, ...]:
        """Return every bias correction in the step."""
        by_node = {}
        for node in self.nodes("step"):
            part = node.complement
            if part is None:
                continue
            is_power = part.op == "pow" and part.args[1].op != "number" and part.args[1].contains(STEP)
            if is_power or any(n.op == "named" and n.args[0].startswith("memo ") for n in part.factors):
                by_node[node] = Correction(node, part)
        return tuple(by_node.values())

    def corrections_of(self, moment: str) -> tuple[Correction, ...]:
        """Return the corrections of the first (``m``) or the second moment (``v``)."""
        squares = {a.old_weight for a in self.second_moments}
        gradients = {a.old_weight for a in self.first_moments}
        own = []
        for c in self.corrections:
            of_second = c.beta in squares and (c.beta not in gradients or moment == "v")
            if of_second == (moment == "v"):
                own.append(c)
        return tuple(own)

    def correction_of(self, moment: str) -> Correction:
        """Return the one correction ``1 - β**t`` of the moment (``m`` or ``v``)."""
        own = only(self.corrections_of(moment), f"correction of {moment}")
        require(own.beta, "power of beta")
        return own

    @cached_property
    def _tape(self) -> Tape:
        return Tape(self.parts)

    @cached_property
    def opaque(self) -> bool:
        """Whether some numbers must come from the rule's own ``coefficients``."""
        return any(e.has("coefficient") for e in self.parts.values())

    @cached_property
    def elementwise(self) -> bool:
        """Whether each element is computed from the same element of parameter, gradient and state."""
        return not any(e.has(*WHOLE) for e in self.parts.values())

    def run(self, values: Mapping[tuple[str, str], Any]) -> tuple[dict[str, Any], bool]:
        """Compute the step.

        Args:
            values: the value of each leaf by its operation and name: ``("setting", "lr")``, ``("p", "")``.

        Returns:
            The values of ``p``, each ``new NAME`` and each ``memo NAME``; and whether a scalar was divided by zero,
            where Python raises an error and NumPy goes on.
        """
        return self._tape.run(values)


Replacement = Callable[[Correction, float], Node]
"""Returns the replacement of a correction raised to an exponent."""


def replace_corrections(program: Program, moment: str, by: Replacement) -> Program:
    """Replace each power of the moment's corrections in the step by ``by(correction, exponent)``."""
    own = {c.node: c for c in program.corrections_of(moment)}
    powers = {
        (base, exponent)
        for node in program.nodes("step")
        for base, exponent in map(Node.split_power, (node, *node.factors))
        if base in own and (exponent != 1 or node.op == "mul")
    }
    if moment == "v" and any(abs(e) == 0.5 for _, e in powers):
        powers = {(base, e) for base, e in powers if abs(e) == 0.5}

    def edit(node: Node) -> Node:
        if node.op == "pow" and node.split_power() in powers:
            return by(own[node.args[0]], node.split_power()[1])
        if node.op == "mul":
            return mul(*(by(own[f], 1.0) if (f, 1.0) in powers else f for f in node.args))
        return node

    return require_change(program, program.rewrite(edit, "step"))


def require_change(before: Program, after: Program) -> Program:
    """Return ``after``, or raise an error if an edit has left it the same as ``before``.

    Raises:
        NotFoundError: nothing has changed.
    """
    require(not after.same(before), "change")
    return after


@final
@dataclass(frozen=True)
class Denominator:
    """A sum by which the step is divided, of ``root`` and the term with ε."""

    node: Node
    root: Node
    eps: Node

    @property
    def correction(self) -> Node:
        """The scalar factors of the root."""
        return self.root.split_scalars()[0]

    @property
    def bare_root(self) -> Node:
        """The root without its scalar factors."""
        return self.root.split_scalars()[1]


def sums_with_eps(program: Program) -> Iterator[Denominator]:
    """Yield every sum of an array and ε."""
    eps = program.setting("eps")
    seen = set()
    for expression in program.parts.values():
        for node in expression.walk():
            if node.op == "add" and node not in seen and not node.scalar:
                seen.add(node)
                small = [t for t in node.args if t.scalar and t.contains(eps)]
                rest = add(*(t for t in node.args if t not in small))
                if small and not rest.contains(eps):
                    yield Denominator(node, rest, add(*small))


def replace_denominators(program: Program, make: Callable[[Denominator], Node]) -> Program:
    """Replace every ``sqrt(v) + eps`` by ``make`` of it."""
    replacements = {d.node: make(d) for d in sums_with_eps(program) if d.bare_root.split_power()[1] == 0.5}
    return require_change(program, program.rewrite(lambda n: replacements.get(n, n)))


def find_decoupled_decay(program: Program) -> Node:
    """Return the factor of the decay on the weight, ``lr * weight_decay``."""
    decay = 1 - program["keep"]
    require(decay.contains(program.setting("weight_decay")), "decay on the weight")
    return decay


def find_coupled_decay(program: Program) -> Node:
    """Return the factor of the weight that is added to the gradient, ``weight_decay``."""
    scale, _ = program["G"].linear(P)
    require(scale.contains(program.setting("weight_decay")), "decay in the gradient")
    return scale


def step_size(program: Program) -> Node:
    """Return the factors of the step that are not elementwise: learning rate, corrections, the parameter's size."""
    common = None
    for term in program["step"].terms:
        size = mul(*(f for f in term.factors if not f.elementwise and not f.has("named", "old", "g")))
        common = size if common is None or common is size else ONE
    return common if common is not None else ONE


def divide_terms(node: Node, factor: Node) -> Node:
    """Divide every term of a sum by a factor that all of them have."""
    quotients = []
    for term in node.terms:
        own = term.factors
        if factor in own:
            quotients.append(mul(*(f for f in own if f is not factor)))
            continue
        inner = next((f for f in own if f.op == "add" and all(factor in t.factors for t in f.args)), None)
        divided = divide_terms(require(inner, "such factor in a term"), factor)
        quotients.append(mul(divided, *(f for f in own if f is not inner)))
    return add(*quotients)


Edit: TypeAlias = Callable[[Program], Program]
"""Changes a traced rule; raises :class:`NotFoundError` if there is nothing to change."""


def edit_nodes(change: Callable[[Program, Node], Node], *parts: str) -> Edit:
    """Return an edit that applies ``change`` to every node of these parts, by default of all."""

    def edit(program: Program) -> Program:
        return program.rewrite(lambda node: change(program, node), *parts)

    return edit


def all_of(*edits: Edit) -> Edit:
    """Return an edit that makes these edits one after the other; each must change something."""

    def edit(program: Program) -> Program:
        for each in edits:
            program = require_change(program, each(program))
        return program

    return edit


def any_of(*edits: Edit) -> Edit:
    """Return an edit that makes these edits one after the other, except those without a place in the rule."""

    def edit(program: Program) -> Program:
        for each in edits:
            try:
                program = each(program)
            except NotFoundError:
                continue
        return program

    return edit

"""A rule's own functions run on symbols: what comes back is the expression that they compute.

Numbers among the settings, the step number, the state, the parameter and its gradient are symbols; flags keep their
values. Where a rule branches on a number (``if step == 1``), both ways are gone and joined. Nothing is read but the
functions themselves, so that a rule made by ``exec`` or in a notebook is traced as any other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import lru_cache, partial
from types import SimpleNamespace
from typing import Any, TypeAlias, final

from gradstep.judge.algebra.expression import (
    COUNT,
    MINUS,
    STEP,
    G,
    Node,
    P,
    add,
    based,
    call,
    elementwise,
    factors,
    inverse,
    linear,
    minus,
    mul,
    number,
    rewrite,
    split,
    square,
    substitute,
)
from gradstep.judge.algebra.program import Program
from gradstep.judge.algebra.rebuild import Rebuilt
from gradstep.judge.algebra.symbol import Fork, Symbol, UntraceableError, as_node, deciding
from gradstep.rules import Rule, Slot

_WAYS = 32
"""How many ways a rule's branches may make; one with more is not traced."""

Key: TypeAlias = tuple[Any, ...]
"""What a trace depends on: the values of flags, which state there is. Rules with equal keys have the same graph."""


@final
class _Answers(dict[Node, bool]):
    """Branches decided by the settings' own values: which slots there are follows from them."""

    def __init__(self, values: Mapping[str, float]) -> None:
        self.values_by_name = values

    def __contains__(self, node: object) -> bool:
        return True

    def __getitem__(self, node: Node) -> bool:
        leaves = {("setting", name): value for name, value in self.values_by_name.items()}
        return bool(Program({"p": node}).run(leaves)[0]["p"])


@lru_cache(maxsize=4096)
def key_of(rule: Rule, ndim: int) -> Key:
    """What the graph of this rule depends on, for a parameter of so many dimensions."""
    flags = [(f.name, _shape(getattr(rule, f.name))) for f in fields(rule)]
    return (tuple(flags), tuple(s.name for s in rule.slots(ndim)), rule.elementwise or ndim)


def _shape(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(_shape, value))
    return "number" if isinstance(value, (int, float)) and not isinstance(value, bool) else value


def _symbolic(name: str, value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(_symbolic(f"{name}.{i}", v) for i, v in enumerate(value))
    numeric = isinstance(value, (int, float)) and not isinstance(value, bool)
    return Symbol(Node("setting", name)) if numeric else value


def values_of(rule: Rule) -> dict[str, float]:
    """The numbers that the ``setting`` leaves of a rule's graph stand for."""
    found: dict[str, float] = {}

    def put(name: str, value: Any) -> None:
        if isinstance(value, tuple):
            for i, v in enumerate(value):
                put(f"{name}.{i}", v)
        elif isinstance(value, (int, float)):
            found[name] = value

    for f in fields(rule):
        put(f.name, getattr(rule, f.name))
    return found


def _all_ways(function: Callable[[], dict[str, Any]]) -> dict[str, Node]:
    """What the function returns by name, over both sides of each of its branches."""
    left = [_WAYS]

    def follow(decided: dict[Node, bool]) -> dict[str, Node]:
        left[0] -= 1
        if left[0] < 0:
            raise UntraceableError("a rule has too many branches")
        deciding.made = decided
        try:
            return {name: as_node(value) for name, value in function().items()}
        except Fork as fork:
            condition = fork.condition
        yes, no = (follow({**decided, condition: answer}) for answer in (True, False))
        if yes.keys() != no.keys():
            raise UntraceableError("a rule's branches compute different things")
        return {name: call("ite", condition, value, no[name]) for name, value in yes.items()}

    return follow({})


@final
class _Recorder:
    """State that records what each slot was assigned; a slot that is read afterwards is a leaf of its name."""

    def __init__(self, slots: tuple[Slot, ...]) -> None:
        self.__dict__["_made"] = {}
        self.__dict__["_leaves"] = {s.name: Node("named", f"new {s.name}", not s.signed) for s in slots}
        self.__dict__["_values"] = {s.name: Symbol(Node("old", s.name, not s.signed)) for s in slots}

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def __getattr__(self, name: str) -> Any:
        if name not in self.__dict__["_values"]:
            raise AttributeError(name)
        return self.__dict__["_values"][name]

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in self._leaves:
            raise UntraceableError(f"a rule assigns {name!r}, which is no slot of its")
        node = as_node(value)
        if name in self._made:
            node = substitute(node, self._leaves[name], self._made[name])
        self._made[name] = node
        self._values[name] = Symbol(self._leaves[name])

    def parts(self) -> dict[str, Node]:
        """What each slot holds after the step."""
        return {f"new {name}": self._made.get(name, as_node(self._values[name])) for name in self._leaves}


def trace(rule: Rule, ndim: int) -> Program:
    """The graph of one step, as named expressions.

    ``G`` is the gradient with the decay that is added to it; ``new NAME`` a slot after the step; ``memo NAME`` a
    scalar after it; ``keep`` what is left of the parameter and ``step`` what is subtracted from it, so that ``p`` is
    ``keep * p - step``; ``update`` the step without its size, if that is used elsewhere. Where an expression
    uses another, it holds a leaf of that name.

    Raises:
        UntraceableError: the rule does something that cannot be recorded.
    """
    rebuilt = Rebuilt().rule(type(rule))
    symbolic = object.__new__(rebuilt)
    for f in fields(rule):
        object.__setattr__(symbolic, f.name, _symbolic(f.name, getattr(rule, f.name)))
    slots = rule.slots(ndim)
    memos = {name: Symbol(Node("memo", name)) for name in rule.scalars}
    try:
        coefficients = _all_ways(lambda: symbolic.coefficients(Symbol(STEP), **memos))  # type: ignore[arg-type]
    except UntraceableError:
        raise
    except Exception:
        # What cannot be read is taken as it comes out: the names are known, the numbers are computed by the rule.
        coefficients = {name: Node("coefficient", name) for name in rule.coefficients(1, **rule.scalars)}
    taken = {name: Node("named", f"memo {name}", False) if name in memos else n for name, n in coefficients.items()}

    def update() -> dict[str, Any]:
        state: Any = _Recorder(slots)
        c = SimpleNamespace(**{name: Symbol(n) for name, n in taken.items()})
        new = rebuilt.update(Symbol(P), Symbol(G), state, c)
        return {**{name: Symbol(n) for name, n in state.parts().items()}, "p": new}

    try:
        found = _all_ways(update)
    except UntraceableError:
        raise
    except Exception as error:
        raise UntraceableError(f"{type(rule).__name__}.update cannot be traced: {error}") from error
    signed = {f"new {s.name}": s.signed for s in slots}
    memo = {f"memo {name}": coefficients[name] for name in rule.scalars}
    return Program(_named({**memo, **found}, signed), _first_values(rule, symbolic, ndim))


def _first_values(rule: Rule, symbolic: Any, ndim: int) -> dict[str, Node]:
    """What slots and scalars hold before the first step."""
    deciding.made = _Answers(values_of(rule))
    try:
        fills = {s.name: as_node(s.fill) for s in symbolic.slots(ndim)}
    except Exception:
        fills = {s.name: number(s.fill) for s in rule.slots(ndim)}
    return fills | {name: number(value) for name, value in rule.scalars.items()}


def _named(found: dict[str, Node], signed: Mapping[str, bool]) -> dict[str, Node]:
    """Expressions that occur in others replaced by their names, and the parameter taken apart."""
    decayed = _decayed_gradient(found)
    leaf = Node("named", "G", False)
    named = {name: rewrite(e, lambda n: _with_name(n, decayed, leaf)) for name, e in found.items()}
    named = {"G": decayed, **named}
    # What is used where it was computed, under its own name too, innermost first.
    inner = sorted((n for n in named if n.startswith(("new ", "memo "))), key=lambda n: named[n].rank)
    for name in inner:
        whole, new = named[name], Node("named", name, name in signed and not signed[name])
        if whole.args and whole.op != "named":
            edit = partial(_with_name, whole=whole, leaf=new)
            named = {n: e if n == name else rewrite(e, edit) for n, e in named.items()}
    keep, change = linear(named.pop("p"), P)
    named |= {"keep": keep, "step": mul(MINUS, change)}
    named = {n: _as_average(n, e, signed) if n in signed else e for n, e in named.items()}
    named = _with_update(named)
    left, moved = Node("named", "keep", False), Node("named", "step", False)
    return named | {"p": minus(mul(left, P), moved)}


def _as_average(name: str, expression: Node, signed: Mapping[str, bool]) -> Node:
    """``β * old + (1 - β) * x`` for a slot written as ``x + β * (old - x)`` or ``old + (1 - β) * (x - old)``."""
    gradient = Node("named", "G", False)
    old = Node("old", name.removeprefix("new "), not signed[name])
    kept, added = linear(expression, old)
    for fresh in (gradient, square(gradient)):
        rest, other = linear(added, fresh)
        if kept.op == "setting" and rest.scalar and not _is_zero(rest) and _is_zero(other):
            return add(mul(kept, old), mul(rest, fresh))
    return expression


def _with_update(named: dict[str, Node]) -> dict[str, Node]:
    """What the step is along under a name of its own, ``update``, where its square is used elsewhere."""
    along = [f for f in factors(named["step"]) if elementwise(f)]
    update, leaf = mul(*along), Node("named", "update", False)
    squared = factors(square(update))

    def edit(node: Node) -> Node:
        if node.op == "mul" and len(squared) > 1 and set(squared) <= set(node.args):
            return mul(square(leaf), *(f for f in node.args if f not in squared))
        return node

    found = {n: rewrite(e, edit) for n, e in named.items()}
    if all(found[n] is e for n, e in named.items()):
        return named
    size = mul(*(f for f in factors(found["step"]) if f not in along))
    return {**found, "update": update, "step": mul(size, leaf)}


def _decayed_gradient(found: Mapping[str, Node]) -> Node:
    """``g + decay * p`` if it occurs anywhere, else ``g``."""
    for expression in found.values():
        for node in _sums_with_gradient(expression):
            decay = [t for t in node.args if _is_decay(t)]
            if decay:
                return add(G, *decay)
    return G


def _sums_with_gradient(expression: Node) -> list[Node]:
    found: list[Node] = []

    def look(node: Node) -> Node:
        if node.op == "add" and G in node.args:
            found.append(node)
        return node

    rewrite(expression, look)
    return found


def _is_decay(term: Node) -> bool:
    scale, leaf = linear(term, P)
    return scale.scalar and split(scale)[0] > 0 and not _is_zero(scale) and _is_zero(leaf)


def _is_zero(node: Node) -> bool:
    return node.op == "number" and node.args[0] == 0


def _with_name(node: Node, whole: Node, leaf: Node) -> Node:
    """The node with ``leaf`` for ``whole``, also where that is some of a sum's terms or of a product's factors."""
    if node is whole or (node is G and whole is G):
        return leaf
    if node.op == whole.op == "add" and set(whole.args) <= set(node.args):
        return add(leaf, *(t for t in node.args if t not in whole.args))
    if node.op == whole.op == "mul" and node.scalar and whole.scalar:
        powers = dict(map(based, node.args))
        if all(powers.get(base, 0.0) >= exponent for base, exponent in map(based, whole.args)):
            return mul(leaf, node, inverse(whole))
    return node


__all__ = ["COUNT", "Key", "Symbol", "UntraceableError", "as_node", "key_of", "trace", "values_of"]

"""Trace a rule: run its own functions on symbols, which returns the expressions that they compute.

Numbers among the settings, the step number, the state, the parameter and its gradient are symbols; flags keep their
values. Where a rule branches on a number (``if step == 1``), both branches are traced and joined. The source text is
not needed, so a rule made by ``exec`` or in a notebook is traced like any other.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import lru_cache, partial
from types import BuiltinFunctionType, FunctionType, SimpleNamespace
from typing import Any, TypeAlias, final

from gradstep.judge.algebra.expression import GRADIENT, KEEP, MOVE, STEP, ZERO, G, Node, P, add, call, mul, number
from gradstep.judge.algebra.program import Program
from gradstep.judge.algebra.recording import Fork, Symbol, UntraceableError, as_node, branching
from gradstep.rules import Rule, Slot

_MOST_PATHS = 32
"""Most paths through a rule's branches; a rule with more is not traced."""

Key: TypeAlias = tuple[Any, ...]
"""The values of flags and the names of slots. Rules with equal keys have the same graph."""


@final
class _Answers(dict[Node, bool]):
    """Answers conditions by the values of the settings, so that ``slots`` returns the slots of these settings."""

    def __init__(self, values: Mapping[str, float]) -> None:
        self.values_by_name = values

    def __contains__(self, node: object) -> bool:
        return True

    def __getitem__(self, node: Node) -> bool:
        """Return the value of a condition on settings."""
        leaves = {("setting", name): value for name, value in self.values_by_name.items()}
        return bool(Program({"p": node}).run(leaves)[0]["p"])


@lru_cache(maxsize=4096)
def key_of(rule: Rule, ndim: int) -> Key:
    """Return the key of the rule's graph for a parameter with ``ndim`` dimensions."""
    # The loop around a rule negates the gradient where it is maximized; its graph stays the same.
    flags = [(f.name, _shape(getattr(rule, f.name))) for f in fields(rule) if f.name != "maximize"]
    return (tuple(flags), tuple(s.name for s in rule.slots(ndim)), rule.sees == "elements" or ndim)


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
    """Return the values of the ``setting`` leaves of a rule's graph by name."""
    numbers: dict[str, float] = {}

    def collect(name: str, value: Any) -> None:
        if isinstance(value, tuple):
            for i, v in enumerate(value):
                collect(f"{name}.{i}", v)
        elif isinstance(value, (int, float)):
            numbers[name] = value

    for f in fields(rule):
        collect(f.name, getattr(rule, f.name))
    return numbers


def _trace_branches(function: Callable[[], dict[str, Any]]) -> dict[str, Node]:
    """Return what the function returns, by name, joined over both sides of each of its branches."""
    paths_left = [_MOST_PATHS]

    def follow(answers: dict[Node, bool]) -> dict[str, Node]:
        paths_left[0] -= 1
        if paths_left[0] < 0:
            raise UntraceableError("a rule has too many branches")
        branching.answers = answers
        try:
            return {name: as_node(value) for name, value in function().items()}
        except Fork as fork:
            condition = fork.condition
        yes, no = (follow({**answers, condition: answer}) for answer in (True, False))
        if yes.keys() != no.keys():
            raise UntraceableError("a rule's branches compute different things")
        return {name: call("ite", condition, value, no[name]) for name, value in yes.items()}

    return follow({})


@final
class _Recorder:
    """State that records the assignments to its slots; reading a slot after that returns a leaf with its name."""

    def __init__(self, slots: tuple[Slot, ...]) -> None:
        self.__dict__["_assigned"] = {}
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
        if name in self._assigned:
            node = node.substitute(self._leaves[name], self._assigned[name])
        self._assigned[name] = node
        self._values[name] = Symbol(self._leaves[name])

    def parts(self) -> dict[str, Node]:
        """Return the expression of each slot after the step."""
        return {f"new {name}": self._assigned.get(name, as_node(self._values[name])) for name in self._leaves}


def trace(rule: Rule, ndim: int) -> Program:
    """Return the graph of one step, as named expressions.

    ``G`` is the gradient plus the decay that is added to it; ``new NAME`` is a slot after the step, ``memo NAME`` a
    scalar of the state after the step; ``keep`` and ``step`` make the new parameter: ``p`` is ``keep * p - step``;
    ``update`` is the step without its size, if another expression uses it. An expression that uses another one holds a
    leaf with its name.

    Raises:
        UntraceableError: the rule does something that symbols cannot record.
    """
    rebuilt = Rebuilder().rule(type(rule))
    symbolic = object.__new__(rebuilt)
    for f in fields(rule):
        object.__setattr__(symbolic, f.name, _symbolic(f.name, getattr(rule, f.name)))
    slots = rule.slots(ndim)
    memos = {name: Symbol(Node("memo", name)) for name in rule.scalars}
    try:
        coefficients = _trace_branches(lambda: symbolic.coefficients(Symbol(STEP), **memos))  # type: ignore[arg-type]
    except UntraceableError:
        raise
    except Exception:
        # Coefficients that cannot be traced are leaves by name; the rule computes their numbers at each step.
        coefficients = {name: Node("coefficient", name) for name in rule.coefficients(1, **rule.scalars)}
    numbers = {name: Node("named", f"memo {name}", False) if name in memos else n for name, n in coefficients.items()}

    def update() -> dict[str, Any]:
        state: Any = _Recorder(slots)
        c = SimpleNamespace(**{name: Symbol(n) for name, n in numbers.items()})
        new = rebuilt.update(Symbol(P), Symbol(G), state, c)
        return {**{name: Symbol(n) for name, n in state.parts().items()}, "p": new}

    try:
        results = _trace_branches(update)
    except UntraceableError:
        raise
    except Exception as error:
        raise UntraceableError(f"{type(rule).__name__}.update cannot be traced: {error}") from error
    signed = {f"new {s.name}": s.signed for s in slots}
    memo = {f"memo {name}": coefficients[name] for name in rule.scalars}
    return Program(_name_parts({**memo, **results}, signed), _first_values(rule, symbolic, ndim))


def _first_values(rule: Rule, symbolic: Any, ndim: int) -> dict[str, Node]:
    """Return the values of slots and scalars before the first step."""
    branching.answers = _Answers(values_of(rule))
    try:
        fills = {s.name: as_node(s.fill) for s in symbolic.slots(ndim)}
    except Exception:
        fills = {s.name: number(s.fill) for s in rule.slots(ndim)}
    return fills | {name: number(value) for name, value in rule.scalars.items()}


def _name_parts(results: dict[str, Node], signed: Mapping[str, bool]) -> dict[str, Node]:
    """Replace expressions that occur in others by their names, and split the parameter into ``keep`` and ``step``."""
    decayed = _decayed_gradient(results)
    named = {name: e.rewrite(lambda n: _with_name(n, decayed, GRADIENT)) for name, e in results.items()}
    named = {"G": decayed, **named}
    # Also where an expression stands in full instead of its name; innermost first.
    inner = sorted((n for n in named if n.startswith(("new ", "memo "))), key=lambda n: named[n].rank)
    for name in inner:
        whole, new = named[name], Node("named", name, name in signed and not signed[name])
        if whole.args and whole.op != "named":
            edit = partial(_with_name, whole=whole, leaf=new)
            named = {n: e if n == name else e.rewrite(edit) for n, e in named.items()}
    keep, change = named.pop("p").linear(P)
    named |= {"keep": keep, "step": -change}
    named = {n: _as_average(n, e, signed) if n in signed else e for n, e in named.items()}
    return _with_update(named) | {"p": KEEP * P - MOVE}


def _as_average(name: str, expression: Node, signed: Mapping[str, bool]) -> Node:
    """Rewrite ``x + β * (old - x)`` or ``old + (1 - β) * (x - old)`` as ``β * old + (1 - β) * x``."""
    old = Node("old", name.removeprefix("new "), not signed[name])
    old_weight, added = expression.linear(old)
    for value in (GRADIENT, GRADIENT**2):
        new_weight, other = added.linear(value)
        if old_weight.op == "setting" and new_weight.scalar and new_weight is not ZERO and other is ZERO:
            return old_weight * old + new_weight * value
    return expression


def _with_update(named: dict[str, Node]) -> dict[str, Node]:
    """Name the direction of the step ``update`` if another expression uses its square."""
    along = [f for f in named["step"].factors if f.elementwise]
    update, leaf = mul(*along), Node("named", "update", False)
    squared = (update**2).factors

    def edit(node: Node) -> Node:
        if node.op == "mul" and len(squared) > 1 and set(squared) <= set(node.args):
            return mul(leaf**2, *(f for f in node.args if f not in squared))
        return node

    after = {n: e.rewrite(edit) for n, e in named.items()}
    if all(after[n] is e for n, e in named.items()):
        return named
    size = mul(*(f for f in after["step"].factors if f not in along))
    return {**after, "update": update, "step": size * leaf}


def _decayed_gradient(results: Mapping[str, Node]) -> Node:
    """Return ``g + decay * p`` if it occurs anywhere, else ``g``."""
    for expression in results.values():
        for node in _sums_with_gradient(expression):
            decay = [t for t in node.args if _is_decay(t)]
            if decay:
                return add(G, *decay)
    return G


def _sums_with_gradient(expression: Node) -> list[Node]:
    sums: list[Node] = []

    def look(node: Node) -> Node:
        if node.op == "add" and G in node.args:
            sums.append(node)
        return node

    expression.rewrite(look)  # from the leaves up: the innermost sum first
    return sums


def _is_decay(term: Node) -> bool:
    scale, leaf = term.linear(P)
    return scale.scalar and scale.split_coefficient()[0] > 0 and scale is not ZERO and leaf is ZERO


def _with_name(node: Node, whole: Node, leaf: Node) -> Node:
    """Replace ``whole`` by ``leaf``, also where it is some terms of a sum or some factors of a product."""
    if node is whole or (node is G and whole is G):
        return leaf
    if node.op == whole.op == "add" and set(whole.args) <= set(node.args):
        return add(leaf, *(t for t in node.args if t not in whole.args))
    if node.op == whole.op == "mul" and node.scalar and whole.scalar:
        powers = dict(map(Node.split_power, node.args))
        if all(powers.get(base, 0.0) >= exponent for base, exponent in map(Node.split_power, whole.args)):
            return leaf * node / whole
    return node


_MATH: Mapping[Any, Callable[..., Symbol]] = {
    math.sqrt: lambda x: x.sqrt(),
    math.pow: lambda x, y: x**y if isinstance(x, Symbol) else y.__rpow__(x),
    math.fabs: abs,
    math.exp: lambda x: x.exp(),
    math.log: lambda x: x.log(),
}


def _on_symbols(function: Any) -> Any:
    """Return a function of the module ``math`` that also accepts symbols."""

    def call_recorded(*args: Any) -> Any:
        if any(isinstance(a, Symbol) for a in args):
            if function not in _MATH:
                raise UntraceableError(f"a rule calls math.{function.__name__}")
            return _MATH[function](*args)
        return function(*args)

    return call_recorded


_SYMBOLIC_MATH = SimpleNamespace(
    **{name: _on_symbols(f) if callable(f) else f for name, f in vars(math).items() if not name.startswith("__")}
)


@final
class Rebuilder:
    """Rebuilds functions from their code, with a ``math`` that accepts symbols among their globals."""

    def __init__(self) -> None:
        self.rebuilt: dict[FunctionType, FunctionType] = {}

    def function(self, original: FunctionType) -> FunctionType:
        if original not in self.rebuilt:
            scope: dict[str, Any] = {}
            new = FunctionType(original.__code__, scope, original.__name__, original.__defaults__, original.__closure__)
            new.__kwdefaults__ = original.__kwdefaults__
            self.rebuilt[original] = new
            names = set(original.__code__.co_names)
            used = {n: v for n, v in original.__globals__.items() if n in names or n == "__builtins__"}
            scope |= {name: self.value(value) for name, value in used.items()} | {"__name__": original.__module__}
        return self.rebuilt[original]

    def value(self, value: Any) -> Any:
        if value is math:
            return _SYMBOLIC_MATH
        if isinstance(value, BuiltinFunctionType) and value.__module__ == "math":
            return _on_symbols(value)
        ours = isinstance(value, FunctionType) and (value.__module__ or "").partition(".")[0] == "gradstep"
        return self.function(value) if isinstance(value, FunctionType) and not ours else value

    def rule(self, rule: type[Rule]) -> type[Rule]:
        """Return a subclass with rebuilt functions; its instances may hold symbols."""
        members: dict[str, Any] = {}
        for base in reversed(rule.__mro__):
            if base is object:
                continue
            for name, value in vars(base).items():
                if name.startswith("__"):
                    continue
                if isinstance(value, FunctionType):
                    members[name] = self.function(value)
                elif isinstance(value, staticmethod) and isinstance(value.__func__, FunctionType):
                    members[name] = staticmethod(self.function(value.__func__))
                elif isinstance(value, classmethod) and isinstance(value.__func__, FunctionType):
                    members[name] = classmethod(self.function(value.__func__))
                elif isinstance(value, property) and isinstance(value.fget, FunctionType):
                    members[name] = property(self.function(value.fget))
                else:
                    members.pop(name, None)  # a plain attribute overrides the function of a base class
        return type(rule.__name__, (rule,), members)

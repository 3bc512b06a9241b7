"""Symbols that record the computation they take part in, and functions rebuilt so that ``math`` accepts symbols."""

from __future__ import annotations

import math
import operator
import threading
from collections.abc import Callable, Mapping
from functools import partial
from types import BuiltinFunctionType, FunctionType, SimpleNamespace
from typing import Any, final

import numpy as np

from gradstep.judge.algebra.expression import ZERO, Node, call, number
from gradstep.rules import Rule

_CONDITIONS = ("lt", "le", "eq", "ne")


class UntraceableError(TypeError):
    """A rule does something that no symbol can do, such as a loop over a tensor's elements."""


@final
class Fork(Exception):
    """A rule branches on a condition that has no answer yet."""

    def __init__(self, condition: Node) -> None:
        self.condition = condition


branching = threading.local()
"""Its ``answers`` are the values of the conditions on which the running function branches."""


def _record(make: Callable[[Node, Node], Node]) -> Callable[[Symbol, Any], Symbol]:
    """Return the method of a symbol that builds an expression of it and of another value."""

    def method(self: Symbol, other: Any) -> Symbol:
        return Symbol(make(self.node, as_node(other)))

    return method


@final
class Symbol:
    """A number or an array without a value: arithmetic with it builds an expression."""

    __array_ufunc__ = None
    __hash__ = None  # type: ignore[assignment]  # == is a comparison to be recorded
    dtype = np.dtype(np.float64)

    def __init__(self, node: Node) -> None:
        self.node = node

    __add__ = __radd__ = _record(operator.add)
    __sub__ = _record(operator.sub)
    __rsub__ = _record(lambda a, b: b - a)
    __mul__ = __rmul__ = _record(operator.mul)
    __truediv__ = _record(operator.truediv)
    __rtruediv__ = _record(lambda a, b: b / a)
    __pow__ = _record(operator.pow)
    __rpow__ = _record(lambda a, b: b**a)
    __lt__ = _record(partial(call, "lt"))
    __gt__ = _record(lambda a, b: call("lt", b, a))
    __le__ = _record(partial(call, "le"))
    __ge__ = _record(lambda a, b: call("le", b, a))
    __eq__ = _record(partial(call, "eq"))  # type: ignore[assignment]
    __ne__ = _record(partial(call, "ne"))  # type: ignore[assignment]

    def __neg__(self) -> Symbol:
        return Symbol(-self.node)

    def __pos__(self) -> Symbol:
        return self

    def __abs__(self) -> Symbol:
        return Symbol(call("abs", self.node))

    def __bool__(self) -> bool:
        if not self.node.scalar:
            raise UntraceableError("a rule's update cannot branch on the values of its elements")
        if self.node.op == "number":
            return bool(self.node.args[0])
        condition = self.node if self.node.op in _CONDITIONS else call("ne", self.node, ZERO)
        answers: dict[Node, bool] = branching.answers
        if condition not in answers:
            raise Fork(condition)
        return answers[condition]

    # Methods that gradstep.rules.ops calls on values that are not NumPy arrays.

    def sqrt(self) -> Symbol:
        return Symbol(self.node**0.5)

    def sign(self) -> Symbol:
        return Symbol(call("sign", self.node))

    maximum = _record(partial(call, "maximum"))

    def clamp(self, *, min: Any) -> Symbol:
        return self.maximum(min)

    def where(self, condition: Any, other: Any) -> Symbol:
        if condition.node.op == "eq" and condition.node.args[0] is condition.node.args[1]:
            return self  # the guard of ops.sign for NaN
        return Symbol(call("where", condition.node, self.node, as_node(other)))

    def mean(self, axis: int | None = None, keepdim: bool = False) -> Symbol:
        del keepdim  # rules/ops.py keeps it wherever it names an axis
        return Symbol(call("mean", self.node) if axis is None else call("mean", self.node, number(axis)))

    def whole_mean(self) -> Symbol:
        return self.mean()

    def elements(self) -> Symbol:
        return Symbol(call("size", self.node))

    def lerp(self, end: Any, weight: Any) -> Symbol:
        return Symbol(self.node + as_node(weight) * (as_node(end) - self.node))

    def as_matrices(self, blocks: Any) -> Symbol:
        """Return the symbol: parameters in scenarios are matrices."""
        if not (as_node(blocks).op == "number" and as_node(blocks).args[0] == 1):
            raise UntraceableError("a rule takes a parameter as several matrices")
        return self

    def reshape_as(self, like: Any) -> Symbol:
        del like
        return self

    def rows(self) -> Symbol:
        return Symbol(call("rows", self.node))

    def columns(self) -> Symbol:
        return Symbol(call("columns", self.node))

    def newton_schulz(self, coefficients: Any, steps: Any, eps: Any) -> Symbol:
        return Symbol(call("newton_schulz", self.node, *(as_node(x) for x in (*coefficients, steps, eps))))

    def exp(self) -> Symbol:
        return Symbol(call("exp", self.node))

    def log(self) -> Symbol:
        return Symbol(call("log", self.node))


def as_node(value: Any) -> Node:
    """Return the expression of a symbol or a number.

    Raises:
        UntraceableError: for any other value.
    """
    if isinstance(value, Symbol):
        return value.node
    if isinstance(value, (bool, int, float, np.generic)):
        return number(float(value))
    raise UntraceableError(f"a rule combines its arguments with {type(value).__name__}")


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

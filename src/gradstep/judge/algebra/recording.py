"""Between rules and expressions: symbols record what a rule computes, and tapes compute what expressions say."""

from __future__ import annotations

import operator
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias, final

import numpy as np

from gradstep.judge.algebra.expression import ZERO, Node, call, number
from gradstep.rules.newton_schulz import newton_schulz
from gradstep.rules.ops import columns, rows

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


def _record_call(op: str) -> Callable[[Symbol], Symbol]:
    """Return the method of a symbol that builds the call of a function of it."""
    return lambda self: Symbol(call(op, self.node))


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

    __abs__ = _record_call("abs")

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

    sign, exp, log = map(_record_call, ("sign", "exp", "log"))
    rows, columns = map(_record_call, ("rows", "columns"))
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

    def sum(self, axis: int | tuple[int, int], keepdim: bool) -> Symbol:
        del keepdim
        if axis != (-2, -1):
            raise UntraceableError("a rule adds up one axis of a parameter")
        return Symbol(call("sum", self.node))

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

    def newton_schulz(self, coefficients: Any, steps: Any, eps: Any) -> Symbol:
        return Symbol(call("newton_schulz", self.node, *(as_node(x) for x in (*coefficients, steps, eps))))


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


@final
@dataclass(frozen=True)
class _Branch:
    """One branch of a choice: its operations, and the index of its value among the results."""

    calls: list[_Call]
    result: int


@final
@dataclass(frozen=True)
class _Branches:
    """Two branches of which only one is computed: the other one may divide by zero."""

    yes: _Branch
    no: _Branch


_Call: TypeAlias = tuple[int, Callable[..., Any] | _Branches, tuple[int, ...]]
"""Index of the result, the function that computes it, and the indices of its arguments."""


@final
class Tape:
    """The operations of a program's parts, by name, in order; arguments are indices of earlier results."""

    def __init__(self, parts: Mapping[str, Node]) -> None:
        self.parts = parts
        self.constants: list[tuple[int, float]] = []
        self.places: dict[Any, int] = {}
        self.size = 0
        self.numbers: dict[float, int] = {}
        self.calls: list[_Call] = []
        self.loads: list[tuple[int, tuple[str, str]]] = []
        outputs = [n for n in parts if n == "p" or n.startswith(("new ", "memo "))]
        self.outputs = [(n, self._place(parts[n])) for n in outputs]

    def run(self, values: Mapping[tuple[str, str], Any]) -> tuple[dict[str, Any], bool]:
        """Compute the outputs from the leaves, as :meth:`Program.run` describes them."""
        results: list[Any] = [None] * self.size
        for place, constant in self.constants:
            results[place] = constant
        for place, leaf in self.loads:
            results[place] = values[leaf]
        _divided.clear()
        self._run(self.calls, results)
        return {name: results[place] for name, place in self.outputs}, bool(_divided)

    def _run(self, calls: list[_Call], results: list[Any]) -> None:
        for place, function, inputs in calls:
            if isinstance(function, _Branches):
                branch = function.yes if results[inputs[0]] else function.no
                self._run(branch.calls, results)
                results[place] = results[branch.result]
            else:
                results[place] = function(*[results[i] for i in inputs])

    def _new(self) -> int:
        self.size += 1
        return self.size - 1

    def _number(self, value: float) -> int:
        if value not in self.numbers:
            self.numbers[value] = self._new()
            self.constants.append((self.numbers[value], value))
        return self.numbers[value]

    def _call(self, function: Callable[..., Any], *inputs: int) -> int:
        key = function, inputs
        if key not in self.places:
            self.places[key] = self._new()
            self.calls.append((self.places[key], function, inputs))
        return self.places[key]

    def _place(self, node: Node) -> int:
        if node not in self.places:
            self.places[node] = self._lower(node)
        return self.places[node]

    def _lower(self, node: Node) -> int:
        match node.op:
            case "number":
                return self._number(node.args[0])
            case "named":
                return self._place(self.parts[node.args[0]])
            case "add":
                return self._sum(node)
            case "mul":
                return self._product(node)
            case "pow":
                return self._power(node)
            case "ite":
                condition, yes, no = node.args
                inputs = (self._place(condition),)
                place = self._new()
                self.calls.append((place, _Branches(self._branch(yes), self._branch(no)), inputs))
                return place
            case op if op in _FUNCTIONS:
                return self._call(_FUNCTIONS[op], *(self._place(a) for a in node.args))
        place = self._new()
        self.loads.append((place, (node.op, str(node.args[0]) if node.args else "")))
        return place

    def _branch(self, node: Node) -> _Branch:
        """Lower one branch; its results are not shared with operations outside, since it may not be computed."""
        places, calls = dict(self.places), self.calls
        self.calls = []
        result = self._place(node)
        branch = _Branch(self.calls, result)
        self.places, self.calls = places, calls
        return branch

    def _sum(self, node: Node) -> int:
        """Place a sum, scalars first, with a subtraction for each term of coefficient −1; return its place."""
        first, *others = sorted(node.args, key=lambda t: not t.scalar)
        total = self._place(first)
        for term in others:
            coefficient, content = term.split_coefficient()
            if coefficient == -1:
                total = self._call(operator.sub, total, self._place(content))
            else:
                total = self._call(operator.add, total, self._place(term))
        return total

    def _product(self, node: Node) -> int:
        def divides(factor: Node) -> bool:
            return not factor.scalar and factor.split_power()[1] < 0

        # Scalars first: together they cost one multiplication of the array, and lose nothing in float64. Divisors last.
        first, *others = sorted(node.args, key=lambda f: (not f.scalar, divides(f)))
        total = self._place(first)
        for factor in others:
            if divides(factor):
                base, exponent = factor.split_power()
                total = self._call(np.divide, total, self._raise(self._place(base), -exponent, scalar=False))
            else:
                total = self._call(operator.mul, total, self._place(factor))
        return total

    def _power(self, node: Node) -> int:
        base, exponent = node.args
        if exponent.op != "number":
            return self._call(_scalar_power if node.scalar else np.power, self._place(base), self._place(exponent))
        return self._raise(self._place(base), exponent.args[0], scalar=node.scalar)

    def _raise(self, base: int, exponent: float, *, scalar: bool) -> int:
        if exponent == 1:
            return base
        if scalar:
            return self._call(_scalar_power, base, self._number(exponent))
        if abs(exponent) == 2:
            result = self._call(operator.mul, base, base)
        elif abs(exponent) == 0.5:
            result = self._call(np.sqrt, base)
        elif abs(exponent) == 1:
            result = base
        else:
            return self._call(np.power, base, self._number(exponent))
        return self._call(np.divide, self._number(1.0), result) if exponent < 0 else result


_divided: list[bool] = []
"""Not empty if the current step has divided a scalar by zero."""


def _scalar_power(base: float, exponent: float) -> float:
    if base == 0 and exponent < 0:
        _divided.append(True)
        return float("inf")
    if base < 0 and exponent != int(exponent):
        _divided.append(True)
        return float("nan")
    try:
        return float(base**exponent)
    except OverflowError:
        return float("inf")


def _mean(x: Any, axis: float | None = None) -> Any:
    return np.mean(x) if axis is None else np.mean(x, int(axis), keepdims=True)


def _row_mean(x: Any) -> Any:
    return np.mean(x, tuple(range(1, np.ndim(x))), keepdims=True) if np.ndim(x) > 1 else 0.0


WHOLE = ("mean", "sum", "size", "row_mean", "rows", "columns", "newton_schulz")
"""Functions of all elements of a parameter."""

_FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "abs": np.abs,
    "sign": np.sign,
    "maximum": np.maximum,
    "minimum": np.minimum,
    "exp": np.exp,
    "log": np.log,
    "where": np.where,
    "mean": _mean,
    "sum": np.sum,
    "size": np.size,
    "row_mean": _row_mean,
    "rows": rows,
    "columns": columns,
    "newton_schulz": lambda x, a, b, c, steps, eps: newton_schulz(x, (a, b, c), steps, eps),
    "lt": operator.lt,
    "le": operator.le,
    "eq": operator.eq,
    "ne": operator.ne,
}

"""The operations of a traced rule in order: compute its steps in float64."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, final

import numpy as np

from gradstep.judge.algebra.expression import Node
from gradstep.rules.newton_schulz import newton_schulz
from gradstep.rules.ops import columns, rows


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


def _newton_schulz(x: Any, a: float, b: float, c: float, steps: float, eps: float) -> Any:
    return newton_schulz(x, (a, b, c), steps, eps)


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
    "newton_schulz": _newton_schulz,
    "lt": operator.lt,
    "le": operator.le,
    "eq": operator.eq,
    "ne": operator.ne,
}

"""Numbers and arrays that are not known: what is computed with them is recorded."""

from __future__ import annotations

import threading
from typing import Any, final

import numpy as np

from gradstep.judge.algebra.expression import (
    HALF,
    MINUS,
    ZERO,
    Node,
    add,
    call,
    inverse,
    minus,
    mul,
    number,
    power,
)

_CONDITIONS = ("lt", "le", "eq", "ne")


class UntraceableError(TypeError):
    """A rule does something that no symbol can do, such as looking at a tensor's elements one by one."""


@final
class Fork(Exception):
    """A branch that has not been decided yet."""

    def __init__(self, condition: Node) -> None:
        self.condition = condition


deciding = threading.local()
"""Holds ``made``: how branches on numbers are decided at the moment."""


@final
class Symbol:
    """A number or an array that is not known: what is computed with it is recorded."""

    __array_ufunc__ = None
    __hash__ = None  # type: ignore[assignment]  # == is a comparison to be recorded
    dtype = np.dtype(np.float64)

    def __init__(self, node: Node) -> None:
        self.node = node

    def __add__(self, other: Any) -> Symbol:
        return Symbol(add(self.node, as_node(other)))

    __radd__ = __add__

    def __sub__(self, other: Any) -> Symbol:
        return Symbol(minus(self.node, as_node(other)))

    def __rsub__(self, other: Any) -> Symbol:
        return Symbol(minus(as_node(other), self.node))

    def __mul__(self, other: Any) -> Symbol:
        return Symbol(mul(self.node, as_node(other)))

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Symbol:
        return Symbol(mul(self.node, inverse(as_node(other))))

    def __rtruediv__(self, other: Any) -> Symbol:
        return Symbol(mul(as_node(other), inverse(self.node)))

    def __pow__(self, other: Any) -> Symbol:
        return Symbol(power(self.node, as_node(other)))

    def __rpow__(self, other: Any) -> Symbol:
        return Symbol(power(as_node(other), self.node))

    def __neg__(self) -> Symbol:
        return Symbol(mul(MINUS, self.node))

    def __pos__(self) -> Symbol:
        return self

    def __abs__(self) -> Symbol:
        return Symbol(call("abs", self.node))

    def __lt__(self, other: Any) -> Symbol:
        return Symbol(call("lt", self.node, as_node(other)))

    def __gt__(self, other: Any) -> Symbol:
        return Symbol(call("lt", as_node(other), self.node))

    def __le__(self, other: Any) -> Symbol:
        return Symbol(call("le", self.node, as_node(other)))

    def __ge__(self, other: Any) -> Symbol:
        return Symbol(call("le", as_node(other), self.node))

    def __eq__(self, other: object) -> Symbol:  # type: ignore[override]
        return Symbol(call("eq", self.node, as_node(other)))

    def __ne__(self, other: object) -> Symbol:  # type: ignore[override]
        return Symbol(call("ne", self.node, as_node(other)))

    def __bool__(self) -> bool:
        if not self.node.scalar:
            raise UntraceableError("a rule's update cannot branch on the values of its elements")
        if self.node.op == "number":
            return bool(self.node.args[0])
        asked = self.node if self.node.op in _CONDITIONS else call("ne", self.node, ZERO)
        decided: dict[Node, bool] = deciding.made
        if asked not in decided:
            raise Fork(asked)
        return decided[asked]

    # What gradstep.rules.ops asks of values that are not NumPy's.

    def sqrt(self) -> Symbol:
        return Symbol(power(self.node, HALF))

    def sign(self) -> Symbol:
        return Symbol(call("sign", self.node))

    def maximum(self, other: Any) -> Symbol:
        return Symbol(call("maximum", self.node, as_node(other)))

    def clamp(self, *, min: Any) -> Symbol:
        return self.maximum(min)

    def where(self, condition: Any, other: Any) -> Symbol:
        if condition.node.op == "eq" and condition.node.args[0] is condition.node.args[1]:
            return self  # the guard of ops.sign for NaN
        return Symbol(call("where", condition.node, self.node, as_node(other)))

    def mean(self, axis: int | None = None, keepdim: bool = False) -> Symbol:
        del keepdim  # rules/ops.py keeps it wherever it names an axis
        return Symbol(call("mean", self.node) if axis is None else call("mean", self.node, number(axis)))

    def exp(self) -> Symbol:
        return Symbol(call("exp", self.node))

    def log(self) -> Symbol:
        return Symbol(call("log", self.node))


def as_node(value: Any) -> Node:
    """The expression of a symbol or a number.

    Raises:
        UntraceableError: it is neither.
    """
    if isinstance(value, Symbol):
        return value.node
    if isinstance(value, (bool, int, float, np.generic)):
        return number(float(value))
    raise UntraceableError(f"a rule combines its arguments with {type(value).__name__}")

"""Expressions in one canonical form, so that an edit finds a formula in every spelling.

``lr * m / (1 - beta1**t)``, ``lr / (1 - beta1**t) * m`` and ``(lr * m) * (1 - beta1**t) ** -1`` are one and the same
object: sums and products are flat and sorted, numbers and equal terms are collected, a quotient is a power of −1
and a root a power of ½. Equal expressions are identical (``is``).
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from operator import attrgetter
from typing import Any, TypeAlias, final
from weakref import WeakValueDictionary
from zlib import crc32

_RANK = attrgetter("rank")
_INTERNED: WeakValueDictionary[tuple[Any, ...], Node] = WeakValueDictionary()

_OF_DATA = ("p", "g", "old", "named")
"""Leaves with the parameter's shape; every other leaf is one number."""

_REDUCTIONS = ("mean", "sum", "size", "rows", "columns")


@final
class Node:
    """One operation and its arguments.

    Attributes:
        op: ``number``, ``setting``, ``step``, ``count``, ``memo``, ``coefficient``, ``p``, ``g``, ``old``, ``named``
            (leaves); ``add``, ``mul``, ``pow``; or the name of a function, such as ``abs`` or ``maximum``.
        args: nodes; for a leaf its name or its value.
        scalar: whether the value is one number for all elements.
        elementwise: whether it has a value for each element; a number or a mean has one for all of them.
        rank: sort key of terms and factors, the same in every process.
    """

    __slots__ = ("__weakref__", "args", "elementwise", "op", "rank", "scalar")

    op: str
    args: tuple[Any, ...]
    scalar: bool
    elementwise: bool
    rank: tuple[int, int]

    def __new__(cls, op: str, *args: Any) -> Node:
        key = (op, *args)
        existing = _INTERNED.get(key)
        if existing is not None:
            return existing
        node = super().__new__(cls)
        node.op, node.args = op, args
        inner = [a for a in args if isinstance(a, Node)]
        node.scalar = op not in _OF_DATA and all(a.scalar for a in inner)
        if op == "named":
            node.scalar = args[0].startswith("memo ")
        one_for_all = node.scalar or (op in _REDUCTIONS and len(args) == 1)
        node.elementwise = not one_for_all and (op in _OF_DATA or any(a.elementwise for a in inner))
        arguments = ",".join(str(a.rank) if isinstance(a, Node) else repr(a) for a in args)
        node.rank = 1 + max((a.rank[0] for a in inner), default=0), crc32(f"{op}({arguments})".encode())
        _INTERNED[key] = node
        return node

    def __repr__(self) -> str:
        return write_expression(self)

    def __add__(self, other: Node | float) -> Node:
        return add(self, _as_node(other))

    def __sub__(self, other: Node | float) -> Node:
        return add(self, -_as_node(other))

    def __rsub__(self, other: float) -> Node:
        return add(number(other), -self)

    def __neg__(self) -> Node:
        return mul(MINUS, self)

    def __mul__(self, other: Node | float) -> Node:
        return mul(self, _as_node(other))

    def __truediv__(self, other: Node | float) -> Node:
        return mul(self, power(_as_node(other), -1))

    def __rtruediv__(self, other: float) -> Node:
        return mul(number(other), power(self, -1))

    def __pow__(self, exponent: Node | float) -> Node:
        return power(self, exponent)

    __radd__, __rmul__ = __add__, __mul__

    @property
    def terms(self) -> tuple[Node, ...]:
        """Return the terms of a sum; any other node is its own only term."""
        return self.args if self.op == "add" else (self,)

    @property
    def factors(self) -> tuple[Node, ...]:
        """Return the factors of a product; any other node is its own only factor."""
        return self.args if self.op == "mul" else (self,)

    def split_coefficient(self) -> tuple[float, Node]:
        """Split a term into its constant and the rest: ``-2 * x`` into ``(-2, x)``."""
        if self.op == "number":
            return self.args[0], ONE
        if self.op == "mul" and self.args[0].op == "number":
            rest = self.args[1:]
            return self.args[0].args[0], rest[0] if len(rest) == 1 else Node("mul", *rest)
        return 1.0, self

    def split_power(self) -> tuple[Node, float]:
        """Split a factor into base and constant exponent: ``x**-0.5`` into ``(x, -0.5)``, ``x`` into ``(x, 1)``."""
        if self.op == "pow" and self.args[1].op == "number":
            return self.args[0], self.args[1].args[0]
        return self, 1.0

    def split_scalars(self) -> tuple[Node, Node]:
        """Split a product into its scalar factors and its array factors."""
        scalars = [f for f in self.factors if f.scalar]
        return mul(*scalars), mul(*(f for f in self.factors if not f.scalar))

    @property
    def nonnegative(self) -> bool:
        """Whether the value cannot be below zero, as far as its form shows; settings never are."""
        match self.op:
            case "number":
                return bool(self.args[0] >= 0)
            case "setting" | "abs" | "step" | "count":
                return True
            case "old" | "named":
                return bool(self.args[1])
            case "pow":
                base, e = self.split_power()
                return (base is not self and (e % 2 == 0 or abs(e) == 0.5)) or self.args[0].nonnegative
            case "mul" | "maximum":
                return all(a.nonnegative for a in self.args)
            case "add":
                return all(a.nonnegative for a in self.args) or self.complement is not None
        return False

    @property
    def complement(self) -> Node | None:
        """Return ``x`` if the node is ``1 - x`` and a scalar, else None."""
        if self.op != "add" or not self.scalar or ONE not in self.args or len(self.args) != 2:
            return None
        (other,) = (t for t in self.args if t is not ONE)
        coefficient, content = other.split_coefficient()
        return mul(number(-coefficient), content) if coefficient < 0 else None

    def walk(self) -> Iterator[Node]:
        """Yield the node and everything below it, each once."""
        seen, pending = {self}, [self]
        while pending:
            current = pending.pop()
            yield current
            for a in current.args:
                if isinstance(a, Node) and a not in seen:
                    seen.add(a)
                    pending.append(a)

    def contains(self, part: Node) -> bool:
        """Whether ``part`` occurs in the node."""
        return any(n is part for n in self.walk())

    def has(self, *ops: str) -> bool:
        """Whether one of these operations occurs in the node."""
        return any(n.op in ops for n in self.walk())

    def rewrite(self, edit: NodeEdit) -> Node:
        """Rebuild the expression from its leaves up and apply ``edit`` to each node on the way."""
        results: dict[Node, Node] = {}

        def rebuild(current: Node) -> Node:
            if current not in results:
                args = tuple(rebuild(a) if isinstance(a, Node) else a for a in current.args)
                same = all(a is b for a, b in zip(args, current.args))
                results[current] = edit(current if same else build(current.op, args))
            return results[current]

        return rebuild(self)

    def substitute(self, part: Node, by: Node) -> Node:
        """Replace ``part`` by another node everywhere in the expression."""
        return self.rewrite(lambda n: by if n is part else n)

    def linear(self, leaf: Node) -> tuple[Node, Node]:
        """Return ``(a, b)`` such that the node is ``a * leaf + b`` and ``leaf`` does not occur in ``a``.

        Terms with the leaf in another place, such as under a root, stay in ``b``.
        """
        if self is leaf:
            return ONE, ZERO
        if self.op == "add":
            parts = [t.linear(leaf) for t in self.args]
            return add(*(a for a, _ in parts)), add(*(b for _, b in parts))
        if self.op == "mul":
            with_leaf = [f for f in self.args if f.contains(leaf)]
            if len(with_leaf) == 1:
                a, b = with_leaf[0].linear(leaf)
                if a is not ZERO:
                    others = [f for f in self.args if f is not with_leaf[0]]
                    return mul(a, *others), mul(b, *others)
        return ZERO, self


NodeEdit: TypeAlias = Callable[[Node], Node]


def number(value: float) -> Node:
    """Return the node of a constant."""
    return Node("number", float(value))


def _as_node(value: Node | float) -> Node:
    return value if isinstance(value, Node) else number(value)


ZERO, ONE, MINUS = number(0), number(1), number(-1)
P, G, STEP, COUNT = Node("p"), Node("g"), Node("step"), Node("count")
GRADIENT, KEEP, MOVE = Node("named", "G", False), Node("named", "keep", False), Node("named", "step", False)


def add(*nodes: Node) -> Node:
    """Return the sum of the nodes."""
    collected: dict[Node, float] = {}
    pending = list(reversed(nodes))
    while pending:
        coefficient, content = pending.pop().split_coefficient()
        if content.op == "add":
            pending += [mul(number(coefficient), term) for term in reversed(content.args)]
        else:
            collected[content] = collected.get(content, 0.0) + coefficient
    summands = [mul(number(c), content) for content, c in collected.items() if c != 0]
    if len(summands) < 2:
        return summands[0] if summands else ZERO
    return Node("add", *sorted(summands, key=_RANK))


def mul(*nodes: Node) -> Node:
    """Return the product of the nodes."""
    coefficient = 1.0
    powers: dict[tuple[Node, bool], float] = {}
    pending = list(nodes)
    while pending:
        node = pending.pop()
        if node.op == "mul":
            pending += node.args
        elif node.op == "number":
            coefficient *= node.args[0]
        else:
            base, exponent = node.split_power()
            # x / x is 1 for a setting x; for data it may be 0 / 0.
            key = base, base.scalar or exponent > 0
            powers[key] = powers.get(key, 0.0) + exponent
    if coefficient == 0:
        return ZERO
    product = []
    for (base, _), exponent in powers.items():
        factor = power(base, exponent)
        if factor.op in ("number", "mul"):
            return mul(number(coefficient), *(power(b, e) for (b, _), e in powers.items()))
        product.append(factor)
    product.sort(key=_RANK)
    if coefficient != 1 and len(product) == 1 and product[0].op == "add":
        return Node("add", *sorted((mul(number(coefficient), t) for t in product[0].args), key=_RANK))
    if coefficient != 1:
        product.insert(0, number(coefficient))
    if len(product) < 2:
        return product[0] if product else ONE
    return Node("mul", *product)


def power(base: Node, exponent: Node | float) -> Node:
    """Return ``base ** exponent``."""
    exponent = _as_node(exponent)
    if exponent.op != "number":
        return ONE if base is ONE else Node("pow", base, exponent)
    e = exponent.args[0]
    if e == 0 or base is ONE:
        return ONE
    if e == 1:
        return base
    whole = e == int(e)
    if base.op == "number" and (base.args[0] > 0 or (whole and base.args[0] != 0)):
        return number(base.args[0] ** e)
    if base.op == "abs" and whole and e % 2 == 0:
        return power(base.args[0], exponent)
    if base.op == "pow" and base.args[1].op == "number":
        inner = base.args[1].args[0]
        if whole or inner != int(inner) or inner % 2 or base.args[0].nonnegative:
            return power(base.args[0], inner * e)
        if inner * e == 1:
            return call("abs", base.args[0])
    if base.op == "mul":
        if whole:
            return mul(*(power(f, exponent) for f in base.args))
        free = [f for f in base.args if f.nonnegative]
        rest = [f for f in base.args if not f.nonnegative]
        if free and rest:
            return mul(*(power(f, exponent) for f in free), Node("pow", mul(*rest), exponent))
        if free:
            return mul(*(power(f, exponent) for f in free))
    return Node("pow", base, exponent)


def call(op: str, *args: Node) -> Node:
    """Return the call of a function of ``rules/ops.py``, a comparison, or a choice between two nodes (``ite``)."""
    if op == "ite":
        condition, yes, no = args
        if condition.op == "number":
            return yes if condition.args[0] else no
        return yes if yes is no else Node("ite", *args)
    if op in _COMPARISONS and all(a.op == "number" for a in args):
        return number(_COMPARISONS[op](*(a.args[0] for a in args)))
    if op == "abs" and args[0].nonnegative:
        return args[0]
    return Node(op, *args)


_COMPARISONS = {"lt": operator.lt, "le": operator.le, "eq": operator.eq, "ne": operator.ne}


def build(op: str, args: tuple[Any, ...]) -> Node:
    """Return the canonical node of an operation."""
    makers: dict[str, Callable[..., Node]] = {"add": add, "mul": mul, "pow": power}
    return makers[op](*args) if op in makers else call(op, *args)


def write_expression(node: Node) -> str:
    """Return the expression as one line of text."""
    match node.op:
        case "number":
            return f"{node.args[0]:g}"
        case "add":
            return "(" + " + ".join(map(write_expression, node.args)) + ")"
        case "mul":
            return " * ".join(map(write_expression, node.args))
        case "pow":
            return f"{write_expression(node.args[0])}**{write_expression(node.args[1])}"
    inner = ", ".join(write_expression(a) if isinstance(a, Node) else str(a) for a in node.args)
    return f"{node.op}({inner})" if inner else node.op

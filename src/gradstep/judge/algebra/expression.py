"""Expressions in one canonical form, so that an edit finds a formula however its author has written it.

``lr * m / (1 - beta1**t)``, ``lr / (1 - beta1**t) * m`` and ``(lr * m) * (1 - beta1**t) ** -1`` are one and the same
object here: sums and products are flat and sorted, numbers and equal terms are collected, a quotient is a power of −1
and a root a power of ½. Equal expressions are identical (``is``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, TypeAlias, final
from weakref import WeakValueDictionary
from zlib import crc32

_INTERNED: WeakValueDictionary[tuple[Any, ...], Node] = WeakValueDictionary()

_OF_DATA = ("p", "g", "old", "named")
"""Operations whose value has an element for each of the parameter's; every other leaf is one number."""


@final
class Node:
    """One operation and what it is applied to.

    Attributes:
        op: ``number``, ``setting``, ``step``, ``count``, ``memo``, ``coefficient``, ``p``, ``g``, ``old``, ``named``
            (leaves); ``add``, ``mul``, ``pow``; or the name of a function, such as ``abs`` or ``maximum``.
        args: nodes, or for a leaf what tells it from others.
        scalar: it is one number for all elements.
        rank: orders the terms of a sum and the factors of a product, the same in every process.
    """

    __slots__ = ("__weakref__", "args", "op", "rank", "scalar")

    op: str
    args: tuple[Any, ...]
    scalar: bool
    rank: tuple[int, int]

    def __new__(cls, op: str, *args: Any) -> Node:
        key = (op, *args)
        known = _INTERNED.get(key)
        if known is not None:
            return known
        node = super().__new__(cls)
        node.op, node.args = op, args
        inner = [a for a in args if isinstance(a, Node)]
        node.scalar = op not in _OF_DATA and all(a.scalar for a in inner)
        if op == "named":
            node.scalar = args[0].startswith("memo ")
        told = ",".join(str(a.rank) if isinstance(a, Node) else repr(a) for a in args)
        node.rank = 1 + max((a.rank[0] for a in inner), default=0), crc32(f"{op}({told})".encode())
        _INTERNED[key] = node
        return node

    def __repr__(self) -> str:
        return describe(self)


Edit: TypeAlias = Callable[[Node], Node]


def number(value: float) -> Node:
    """A number written into the formula."""
    return Node("number", float(value))


ZERO, ONE, TWO, HALF, MINUS = number(0), number(1), number(2), number(0.5), number(-1)
P, G, STEP, COUNT = Node("p"), Node("g"), Node("step"), Node("count")


def value_of(node: Node) -> float | None:
    """The value of a number, or None for everything else."""
    return float(node.args[0]) if node.op == "number" else None


def split(node: Node) -> tuple[float, Node]:
    """A term as a number times what is no number: ``-2 * x`` as ``(-2, x)``."""
    if node.op == "number":
        return node.args[0], ONE
    if node.op == "mul" and node.args[0].op == "number":
        rest = node.args[1:]
        return node.args[0].args[0], rest[0] if len(rest) == 1 else Node("mul", *rest)
    return 1.0, node


def terms(node: Node) -> tuple[Node, ...]:
    """The terms of a sum; of anything else, itself."""
    return node.args if node.op == "add" else (node,)


def factors(node: Node) -> tuple[Node, ...]:
    """The factors of a product; of anything else, itself."""
    return node.args if node.op == "mul" else (node,)


def based(node: Node) -> tuple[Node, float]:
    """A factor as a base and a numeric exponent."""
    if node.op == "pow" and node.args[1].op == "number":
        return node.args[0], node.args[1].args[0]
    return node, 1.0


def add(*nodes: Node) -> Node:
    """The sum."""
    collected: dict[Node, float] = {}
    pending = list(reversed(nodes))
    while pending:
        coefficient, content = split(pending.pop())
        if content.op == "add":
            pending += [mul(number(coefficient), term) for term in reversed(content.args)]
        else:
            collected[content] = collected.get(content, 0.0) + coefficient
    found = [mul(number(c), content) for content, c in collected.items() if c != 0]
    if len(found) < 2:
        return found[0] if found else ZERO
    return Node("add", *sorted(found, key=_rank))


def mul(*nodes: Node) -> Node:
    """The product."""
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
            base, exponent = based(node)
            # x / x is 1 where x is a setting; where it is data, it may be 0 / 0.
            key = base, base.scalar or exponent > 0
            powers[key] = powers.get(key, 0.0) + exponent
    if coefficient == 0:
        return ZERO
    found = []
    for (base, _), exponent in powers.items():
        made = power(base, number(exponent))
        if made.op in ("number", "mul"):
            return mul(number(coefficient), *(power(b, number(e)) for (b, _), e in powers.items()))
        found.append(made)
    found.sort(key=_rank)
    if coefficient != 1 and len(found) == 1 and found[0].op == "add":
        return Node("add", *sorted((mul(number(coefficient), t) for t in found[0].args), key=_rank))
    if coefficient != 1:
        found.insert(0, number(coefficient))
    if len(found) < 2:
        return found[0] if found else ONE
    return Node("mul", *found)


def power(base: Node, exponent: Node) -> Node:
    """``base ** exponent``."""
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
        if whole or inner != int(inner) or inner % 2 or nonnegative(base.args[0]):
            return power(base.args[0], number(inner * e))
        if inner * e == 1:
            return call("abs", base.args[0])
    if base.op == "mul":
        if whole:
            return mul(*(power(f, exponent) for f in base.args))
        free = [f for f in base.args if nonnegative(f)]
        rest = [f for f in base.args if not nonnegative(f)]
        if free and rest:
            return mul(*(power(f, exponent) for f in free), Node("pow", mul(*rest), exponent))
        if free:
            return mul(*(power(f, exponent) for f in free))
    return Node("pow", base, exponent)


def call(op: str, *args: Node) -> Node:
    """A function of ``rules/ops.py``, a comparison, or a choice between two (``ite``)."""
    if op == "ite":
        condition, yes, no = args
        if condition.op == "number":
            return yes if condition.args[0] else no
        return yes if yes is no else Node("ite", *args)
    if op in _COMPARISONS and all(a.op == "number" for a in args):
        return number(_COMPARISONS[op](*(a.args[0] for a in args)))
    if op == "abs" and nonnegative(args[0]):
        return args[0]
    return Node(op, *args)


_COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
}


def nonnegative(node: Node) -> bool:
    """Whether it is known never to be below zero; settings never are."""
    match node.op:
        case "number":
            return bool(node.args[0] >= 0)
        case "setting" | "abs" | "step" | "count":
            return True
        case "old" | "named":
            return bool(node.args[1])
        case "pow":
            e = value_of(node.args[1])
            return (e is not None and (e % 2 == 0 or abs(e) == 0.5)) or nonnegative(node.args[0])
        case "mul" | "maximum":
            return all(nonnegative(a) for a in node.args)
        case "add":
            return all(nonnegative(a) for a in node.args) or complement(node) is not None
    return False


def complement(node: Node) -> Node | None:
    """``x`` where the node is ``1 - x`` and one number for all elements; None for everything else."""
    if node.op != "add" or not node.scalar or ONE not in node.args or len(node.args) != 2:
        return None
    (other,) = (t for t in node.args if t is not ONE)
    coefficient, content = split(other)
    return mul(number(-coefficient), content) if coefficient < 0 else None


@cache
def elementwise(node: Node) -> bool:
    """Whether it has a value for each element, and not one for all of them as a number or a mean has."""
    if node.scalar or (node.op in _REDUCTIONS and len(node.args) == 1):
        return False
    return node.op in _OF_DATA or any(elementwise(a) for a in node.args if isinstance(a, Node))


_REDUCTIONS = ("mean", "sum", "size")


def minus(one: Node, other: Node) -> Node:
    """The difference."""
    return add(one, mul(MINUS, other))


def inverse(node: Node) -> Node:
    """One over it."""
    return power(node, MINUS)


def root(node: Node) -> Node:
    """The square root."""
    return power(node, HALF)


def square(node: Node) -> Node:
    """Its square."""
    return power(node, TWO)


def build(op: str, args: tuple[Any, ...]) -> Node:
    """The canonical node of an operation."""
    makers: dict[str, Callable[..., Node]] = {"add": add, "mul": mul, "pow": power}
    return makers[op](*args) if op in makers else call(op, *args)


def walk(node: Node) -> Iterator[Node]:
    """The node and everything below it, each once."""
    seen, pending = {node}, [node]
    while pending:
        current = pending.pop()
        yield current
        for a in current.args:
            if isinstance(a, Node) and a not in seen:
                seen.add(a)
                pending.append(a)


def contains(node: Node, part: Node) -> bool:
    """Whether ``part`` occurs in it."""
    return any(n is part for n in walk(node))


def rewrite(node: Node, edit: Edit) -> Node:
    """Everything built anew from the leaves up, ``edit`` applied to each node on the way."""
    known: dict[Node, Node] = {}

    def of(current: Node) -> Node:
        if current not in known:
            args = tuple(of(a) if isinstance(a, Node) else a for a in current.args)
            same = all(a is b for a, b in zip(args, current.args))
            known[current] = edit(current if same else build(current.op, args))
        return known[current]

    return of(node)


def substitute(node: Node, part: Node, by: Node) -> Node:
    """``by`` in the place of ``part``."""
    return rewrite(node, lambda n: by if n is part else n)


def linear(node: Node, leaf: Node) -> tuple[Node, Node]:
    """``(a, b)`` such that the node is ``a * leaf + b`` and ``leaf`` is not in ``a``.

    What contains the leaf in another way, as in a root, stays in ``b``.
    """
    if node is leaf:
        return ONE, ZERO
    if node.op == "add":
        parts = [linear(t, leaf) for t in node.args]
        return add(*(a for a, _ in parts)), add(*(b for _, b in parts))
    if node.op == "mul":
        holding = [f for f in node.args if contains(f, leaf)]
        if len(holding) == 1:
            a, b = linear(holding[0], leaf)
            if a is not ZERO:
                others = [f for f in node.args if f is not holding[0]]
                return mul(a, *others), mul(b, *others)
    return ZERO, node


def describe(node: Node) -> str:
    """The expression in one line, for people."""
    match node.op:
        case "number":
            return f"{node.args[0]:g}"
        case "add":
            return "(" + " + ".join(map(describe, node.args)) + ")"
        case "mul":
            return " * ".join(map(describe, node.args))
        case "pow":
            return f"{describe(node.args[0])}**{describe(node.args[1])}"
    inner = ", ".join(describe(a) if isinstance(a, Node) else str(a) for a in node.args)
    return f"{node.op}({inner})" if inner else node.op


def _rank(node: Node) -> tuple[int, int]:
    return node.rank

"""Find and replace pieces of a traced rule: corrections, denominators, the decay, the size of the step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import final

from gradstep.judge.algebra.expression import ONE, Node, P, add, mul
from gradstep.judge.algebra.program import Correction, Program, require

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


def decoupled_decay(program: Program) -> Node:
    """Return the factor of the decay on the weight, ``lr * weight_decay``."""
    decay = 1 - program["keep"]
    require(decay.contains(program.setting("weight_decay")), "decay on the weight")
    return decay


def coupled_decay(program: Program) -> Node:
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

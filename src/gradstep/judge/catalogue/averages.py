"""Running averages: of what, and with which weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from gradstep.judge.algebra.anatomy import (
    GRADIENT,
    Average,
    NotFoundError,
    averages,
    first,
    numeric_part,
    raised,
    second,
    settings,
)
from gradstep.judge.algebra.expression import (
    ONE,
    ZERO,
    Node,
    P,
    add,
    based,
    call,
    complement,
    contains,
    elementwise,
    linear,
    minus,
    mul,
    square,
    walk,
)
from gradstep.judge.algebra.expression import substitute as put
from gradstep.judge.algebra.program import Program
from gradstep.judge.catalogue.mistake import ADAM_PAPER, Mistake, of_nodes
from gradstep.judge.formula import Edit

_READ = ADAM_PAPER


class Blend(NamedTuple):
    """``beta * old + (1 - beta) * fresh``, kept as state or not."""

    node: Node
    beta: Node
    old: Node
    fresh: Node


def blends(program: Program) -> Iterator[Blend]:
    """Every sum of two with weights β and 1 − β."""
    seen = set()
    for expression in program.parts.values():
        for node in walk(expression):
            if node.op != "add" or len(node.args) != 2 or node in seen or node.scalar:
                continue
            seen.add(node)
            for one, other in (node.args, node.args[::-1]):
                beta, old = numeric_part(one)
                rest, fresh = numeric_part(other)
                if beta.op != "number" and complement(rest) is beta:
                    yield Blend(node, beta, old, fresh)


def _is_second(program: Program, blend: Blend) -> bool:
    if blend.beta.op == "setting" and blend.beta.args[0] in ("betas.0", "betas.1"):
        return bool(blend.beta.args[0] == "betas.1")
    return any(a.kept is blend.beta for a in second(program))


def _weighted(moment: str, make: Callable[[Program, Blend], Node], *, everywhere: bool = False) -> Edit:
    """The averages of one moment with other weights; of several that share β, those of the gradient's square."""

    def edit(program: Program) -> Program:
        own = [b for b in blends(program) if _is_second(program, b) == (moment == "v")]
        squares = [b for b in own if contains(b.fresh, square(GRADIENT))]
        made = {b.node: make(program, b) for b in (own if everywhere else squares or own)}
        if not made:
            raise NotFoundError("no such average")
        return program.rewriting(lambda n: made.get(n, n))

    return edit


def _rest(b: Blend) -> Node:
    return minus(ONE, b.beta)


def _other_beta(program: Program, b: Blend) -> Node:
    own = settings(program)
    other = {"betas.0": "betas.1", "betas.1": "betas.0"}.get(str(b.beta.args[0]) if b.beta.op == "setting" else "")
    if other is None or other not in own:
        raise NotFoundError("no two betas")
    return own[other]


def _squares(change: Callable[[Program, Node], Node]) -> Edit:
    """Something else in the place of the squared gradient of the averages."""

    def edit(program: Program) -> Program:
        whole = square(GRADIENT)
        new = change(program, GRADIENT)
        slots = [n for n in program.slots if contains(program[n], whole)]
        if not slots:
            raise NotFoundError("no square of the gradient")
        return program.rewriting(lambda n: new if n is whole else n, *slots)

    return edit


def maxima(program: Program) -> list[str]:
    """The slots that are a maximum."""
    return [n for n in program.slots if program[n].op == "maximum"]


def moments_of(program: Program) -> tuple[Average, ...]:
    """The averages of the gradient that the step is along."""
    only = len(averages(program)) == 1
    return tuple(
        a
        for a in first(program)
        if a.averaging and a.fresh is GRADIENT and (only or linear(program["step"], a.new)[0] is not ZERO)
    )


def _from_average(program: Program, _: Node) -> Node:
    moments = moments_of(program)
    if not moments:
        raise NotFoundError("no average of the gradient")
    return square(moments[0].new)


def _not_rooted(program: Program, node: Node) -> Node:
    del program
    if not elementwise(node):
        return node
    if node.op == "pow" and abs(based(node)[1]) == 0.5 and any(n.op in ("named", "old") for n in walk(node)):
        return raised(node.args[0], 2 * based(node)[1])
    if node.op == "mul" and any(_was_root(f) for f in node.args):
        return mul(*(raised(*_doubled(f)) if f.scalar and abs(based(f)[1]) == 0.5 else f for f in node.args))
    return node


def _was_root(node: Node) -> bool:
    # Roots below have been taken away already, so a factor with state in it and no root is what is left of one.
    base, exponent = based(node)
    return not node.scalar and abs(exponent) == 1 and base.op in ("named", "add", "maximum")


def _doubled(node: Node) -> tuple[Node, float]:
    base, exponent = based(node)
    return base, 2 * exponent


def _along_gradient(program: Program) -> Program:
    moments = moments_of(program)
    if len(moments) != 1 or (not second(program) and not maxima(program)):
        raise NotFoundError("no average over a root")
    return program.setting(step=put(program["step"], moments[0].new, GRADIENT))


def _squared_rest(program: Program, b: Blend) -> Node:
    del program
    return add(mul(b.beta, b.old), mul(square(_rest(b)), b.fresh))


MISTAKES = (
    Mistake(
        "betas-swapped",
        "β₁ and β₂ swapped",
        "`beta2, beta1 = betas`, or β₂ in the average of the gradient",
        _READ,
        of_nodes(
            lambda program, n: (
                settings(program).get("betas.1" if n.args[0] == "betas.0" else "betas.0", n)
                if n.op == "setting" and n.args[0] in ("betas.0", "betas.1")
                else n
            )
        ),
    ),
    Mistake(
        "v-from-gradient",
        "v averaged from the gradient instead of its square",
        "`(1 - beta2) * grad`; it is `(1 - beta2) * grad**2`",
        _READ,
        _squares(lambda program, g: g),
    ),
    Mistake(
        "v-from-magnitude",
        "v averaged from the gradient's magnitude instead of its square",
        "`abs(grad)` in the second average; it is `grad**2`",
        _READ,
        _squares(lambda program, g: call("abs", g)),
    ),
    Mistake(
        "v-not-rooted",
        "the average square not square-rooted",
        "a division by `v + eps`; it is `sqrt(v) + eps`",
        _READ,
        of_nodes(_not_rooted),
    ),
    Mistake(
        "rest1-missing",
        "(1 − β₁) missing from the average of the gradient",
        "`m = beta1 * m + grad`; it is `+ (1 - beta1) * grad`",
        _READ,
        _weighted("m", lambda p, b: add(mul(b.beta, b.old), b.fresh)),
    ),
    Mistake(
        "rest2-missing",
        "(1 − β₂) missing from the second average",
        "`v = beta2 * v + grad**2`; it is `+ (1 - beta2) * grad**2`",
        _READ,
        _weighted("v", lambda p, b: add(mul(b.beta, b.old), b.fresh), everywhere=True),
    ),
    Mistake(
        "m-weights-swapped",
        "the weights of the average gradient exchanged: (1 − β₁) for the old value and β₁ for the gradient",
        "`(1 - beta1) * m + beta1 * grad`",
        _READ,
        _weighted("m", lambda p, b: add(mul(_rest(b), b.old), mul(b.beta, b.fresh))),
    ),
    Mistake(
        "v-weights-swapped",
        "the weights of the second average exchanged: (1 − β) for the old value and β for the new",
        "`(1 - beta2) * v + beta2 * grad**2`",
        _READ,
        _weighted("v", lambda p, b: add(mul(_rest(b), b.old), mul(b.beta, b.fresh))),
    ),
    Mistake(
        "m-rest-of-beta2",
        "the gradient weighted with (1 − β₂) in its average",
        "`beta1 * m + (1 - beta2) * grad`: the two weights add up to 1",
        _READ,
        _weighted("m", lambda p, b: add(mul(b.beta, b.old), mul(minus(ONE, _other_beta(p, b)), b.fresh))),
    ),
    Mistake(
        "v-rest-of-beta1",
        "the square weighted with (1 − β₁) in its average",
        "`beta2 * v + (1 - beta1) * grad**2`: the two weights add up to 1",
        _READ,
        _weighted("v", lambda p, b: add(mul(b.beta, b.old), mul(minus(ONE, _other_beta(p, b)), b.fresh))),
    ),
    Mistake(
        "m-with-beta2",
        "β₂ in the average of the gradient",
        "`beta2 * m + (1 - beta2) * grad`; it is beta1",
        _READ,
        _weighted("m", lambda p, b: put(b.node, b.beta, _other_beta(p, b))),
    ),
    Mistake(
        "v-with-beta1",
        "β₁ in the average square",
        "`beta1 * v + (1 - beta1) * grad**2`; it is beta2",
        _READ,
        _weighted("v", lambda p, b: put(b.node, b.beta, _other_beta(p, b))),
    ),
    Mistake(
        "m-beta-missing",
        "the old average gradient not multiplied by β₁",
        "`m = m + (1 - beta1) * grad`; it is `beta1 * m + ...`",
        _READ,
        _weighted("m", lambda p, b: add(b.old, mul(_rest(b), b.fresh))),
    ),
    Mistake(
        "v-beta-missing",
        "the old average square not multiplied by its β",
        "`v = v + (1 - beta2) * grad**2`; it is `beta2 * v + ...`",
        _READ,
        _weighted("v", lambda p, b: add(b.old, mul(_rest(b), b.fresh))),
    ),
    Mistake(
        "v-rest-squared",
        "(1 − β₂) squared together with the gradient",
        "`((1 - beta2) * grad)**2`; it is `(1 - beta2) * grad**2`",
        _READ,
        _weighted("v", _squared_rest),
    ),
    Mistake(
        "step-along-gradient",
        "the step along the gradient instead of its average",
        "the numerator of the update: it is the corrected m, not grad",
        _READ,
        _along_gradient,
    ),
    Mistake(
        "v-from-average",
        "v averaged from m² instead of g²",
        "`(1 - beta2) * m**2`; it is `grad**2`",
        _READ,
        _squares(_from_average),
    ),
    Mistake(
        "v-from-parameter",
        "v averaged from the weight's square instead of the gradient's",
        "`(1 - beta2) * p**2`; it is `grad**2`",
        _READ,
        _squares(lambda program, g: square(P)),
    ),
)

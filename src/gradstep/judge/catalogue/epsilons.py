"""Epsilon: in the wrong place, of the wrong size."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from gradstep.judge.algebra.anatomy import Denominator, replace_denominators, sums_with_eps
from gradstep.judge.algebra.expression import ONE, ZERO, Node, call, mul, number
from gradstep.judge.algebra.program import NotFoundError, Program, require
from gradstep.judge.formula import Change, Edit


def _replace(make: Callable[[Denominator], Node]) -> Edit:
    return lambda program: replace_denominators(program, make)


def _add_before_correction(d: Denominator, *, inside: bool) -> Node:
    require(d.correction is not ONE, "correction inside the denominator")
    uncorrected = (d.bare_root**2 + d.eps) ** 0.5 if inside else d.bare_root + d.eps
    return d.correction * uncorrected


def _move_outside_root(program: Program) -> Program:
    inside = {d.node: d for d in sums_with_eps(program) if d.bare_root.split_power()[1] != 0.5}

    def edit(node: Node) -> Node:
        base, exponent = node.split_power()
        if base in inside and abs(exponent) == 0.5:
            return (inside[base].root ** 0.5 + inside[base].eps) ** (2 * exponent)
        return node

    return program.rewrite(edit)


def _add_after_correction(program: Program) -> Program:
    """Add ε to the root of the corrected v; the rule adds it to the root of v itself."""
    c = program.correction_of("v")
    is_factor = any(f.split_power() == (c.node, 0.5) for n in program.nodes("step") for f in n.factors)
    require(is_factor, "such factor of the step")
    eps = program.setting("eps")
    return program.replace(step=program["step"].substitute(eps, eps * c.node**0.5))


def _add_to_maximum(program: Program) -> Program:
    eps = program.setting("eps")
    for name in program.slots:
        if program[name].op == "maximum" and any(eps in n.args for n in program[name].args if n.op == "add"):
            _, new = program.slot_leaves(name)
            step = program["step"].substitute(new, new + eps)
            return program.replace_part(name, program[name].substitute(eps, ZERO)).replace(step=step)
    raise NotFoundError("no maximum with eps in it")


def _add_to_quotient(program: Program) -> Program:
    """Write ``m / sqrt(v) + eps``, without the parentheses."""
    sums = {d.node: d for d in sums_with_eps(program) if d.bare_root.split_power()[1] == 0.5}

    def edit(node: Node) -> Node:
        for factor in node.factors:
            base, exponent = factor.split_power()
            if base in sums and exponent == -1 and node.op == "mul":
                others = [f for f in node.args if f is not factor]
                data = [f for f in others if not f.scalar]
                numbers = [f for f in others if f.scalar]
                d = sums[base]
                return mul(*numbers, mul(*data, 1 / d.root) + d.eps)
        return node

    return program.rewrite(edit)


def set_eps(value: float, program: Program) -> Program:
    """Write one value of ε into the formula."""
    eps = program.setting("eps")
    return program.rewrite(lambda n: number(value) if n is eps else n)


CHANGES: dict[str, Edit | Change] = {
    "eps-inside-root": _replace(lambda d: (d.root**2 + d.eps) ** 0.5),
    "eps-squared-inside-root": _replace(lambda d: (d.root**2 + d.eps**2) ** 0.5),
    "eps-inside-before-correction": _replace(partial(_add_before_correction, inside=True)),
    "eps-outside-root": _move_outside_root,
    "eps-before-correction": _replace(partial(_add_before_correction, inside=False)),
    "eps-after-correction": _add_after_correction,
    "eps-added-to-denominator": _add_to_maximum,
    "eps-missing": partial(set_eps, 0.0),
    "eps-max": _replace(lambda d: call("maximum", d.root, d.eps)),
    "eps-twice": _replace(lambda d: (d.root**2 + d.eps) ** 0.5 + d.eps),
    "eps-squared": _replace(lambda d: d.root + d.eps**2),
    "eps-added-to-quotient": _add_to_quotient,
}

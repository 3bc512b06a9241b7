"""Epsilon: in the wrong place, of the wrong size."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from gradstep.judge.algebra.anatomy import (
    Denominator,
    NotFoundError,
    correction_of,
    replace_denominators,
    require,
    setting,
    slot_leaves,
    sums_with_eps,
)
from gradstep.judge.algebra.expression import ONE, ZERO, Node, call, factors, mul, number, split_power, substitute
from gradstep.judge.algebra.program import Program
from gradstep.judge.catalogue.mistake import ADAM_PAPER, Mistake, held_by
from gradstep.judge.formula import Edit

_mistake = partial(
    Mistake, read=ADAM_PAPER + "; the rule's docstring in gradstep.rules says where ε stands in this rule"
)


def _replace(make: Callable[[Denominator], Node]) -> Edit:
    return lambda program: replace_denominators(program, make)


def _add_before_correction(d: Denominator, *, inside: bool) -> Node:
    require(d.correction is not ONE, "correction inside the denominator")
    uncorrected = (d.bare_root**2 + d.eps) ** 0.5 if inside else d.bare_root + d.eps
    return d.correction * uncorrected


def _move_outside_root(program: Program) -> Program:
    inside = {d.node: d for d in sums_with_eps(program) if split_power(d.bare_root)[1] != 0.5}

    def edit(node: Node) -> Node:
        base, exponent = split_power(node)
        if base in inside and abs(exponent) == 0.5:
            return (inside[base].root ** 0.5 + inside[base].eps) ** (2 * exponent)
        return node

    return program.rewrite(edit)


def _add_after_correction(program: Program) -> Program:
    """Add ε to the root of the corrected v; the rule adds it to the root of v itself."""
    c = correction_of(program, "v")
    is_factor = any(split_power(f) == (c.node, 0.5) for n in program.nodes("step") for f in factors(n))
    require(is_factor, "such factor of the step")
    eps = setting(program, "eps")
    return program.replace(step=substitute(program["step"], eps, eps * c.node**0.5))


def _add_to_maximum(program: Program) -> Program:
    eps = setting(program, "eps")
    for name in program.slots:
        if program[name].op == "maximum" and any(eps in n.args for n in program[name].args if n.op == "add"):
            _, new = slot_leaves(program, name)
            step = substitute(program["step"], new, new + eps)
            return program.replace_part(name, substitute(program[name], eps, ZERO)).replace(step=step)
    raise NotFoundError("no maximum with eps in it")


def _add_to_quotient(program: Program) -> Program:
    """Write ``m / sqrt(v) + eps``, without the parentheses."""
    sums = {d.node: d for d in sums_with_eps(program) if split_power(d.bare_root)[1] == 0.5}

    def edit(node: Node) -> Node:
        for factor in factors(node):
            base, exponent = split_power(factor)
            if base in sums and exponent == -1 and node.op == "mul":
                others = [f for f in node.args if f is not factor]
                data = [f for f in others if not f.scalar]
                numbers = [f for f in others if f.scalar]
                d = sums[base]
                return mul(*numbers, mul(*data, 1 / d.root) + d.eps)
        return node

    return program.rewrite(edit)


def always(value: str) -> Mistake:
    """Return the mistake of one value of ε written into the formula."""
    return _mistake(
        f"eps-is-{value}",
        f"ε = {value} whatever is set",
        f"`{value}` written into the formula; use the setting eps",
        partial(_set, number(float(value))),
    )


def _set(value: Node, program: Program) -> Program:
    eps = setting(program, "eps")
    return program.rewrite(lambda n: value if n is eps else n)


VALUES = ("1e-08", "1e-06", "1e-07", "1e-05", "1e-10", "1e-12", "1e-04", "1e-03")
"""Values that people write for ε."""


MISTAKES = (
    _mistake(
        "eps-inside-root",
        "ε inside the square root",
        "`sqrt(v + eps)`; it is `sqrt(v) + eps`",
        _replace(lambda d: (d.root**2 + d.eps) ** 0.5),
        conventions=(
            *held_by("optax", "keras", rules=("RMSprop", "Adagrad")),
            *held_by("textbook", rules=("Adam", "AdamW")),
        ),
    ),
    _mistake(
        "eps-squared-inside-root",
        "ε² inside the square root",
        "`sqrt(v + eps**2)`; it is `sqrt(v) + eps`",
        _replace(lambda d: (d.root**2 + d.eps**2) ** 0.5),
    ),
    _mistake(
        "eps-inside-before-correction",
        "ε inside the root and before the bias correction",
        "`sqrt(v + eps)` with the uncorrected v",
        _replace(partial(_add_before_correction, inside=True)),
    ),
    _mistake(
        "eps-outside-root",
        "ε outside the square roots",
        "`sqrt(v) + eps`; here it is `sqrt(v + eps)`, and it sets the size of the first steps",
        _move_outside_root,
    ),
    Mistake(
        "eps-before-correction",
        "ε before the bias correction",
        "`(sqrt(v) + eps)` divided by the root of `1 - beta2**t`: add ε to the root of the corrected v",
        _replace(partial(_add_before_correction, inside=False)),
        conventions=held_by("paper", "keras", "bitsandbytes", rules=("Adam", "AdamW", "NAdam")),
        read=ADAM_PAPER + ": the reordered form at the end of section 2, with its ε̂",
    ),
    Mistake(
        "eps-after-correction",
        "ε after the bias correction",
        "`sqrt(v_hat) + eps`; torch's RAdam adds ε to the root of the uncorrected v",
        _add_after_correction,
        conventions=held_by("optax", rules=("RAdam",)),
        read="Liu et al., arXiv:1908.03265, and torch.optim.RAdam",
    ),
    Mistake(
        "eps-added-to-denominator",
        "ε added to the maximum instead of to |g|",
        "`m / (u + eps)`; torch has `max(beta2 * u, abs(g) + eps)`",
        _add_to_maximum,
        conventions=held_by("keras"),
        read="Kingma and Ba, arXiv:1412.6980, Algorithm 2, which has no ε; torch.optim.Adamax",
    ),
    _mistake("eps-missing", "no ε", "a division by `sqrt(v)` alone", partial(_set, ZERO)),
    _mistake(
        "eps-max",
        "ε as the least value of the denominator instead of added to it",
        "`max(sqrt(v), eps)`; it is `sqrt(v) + eps`",
        _replace(lambda d: call("maximum", d.root, d.eps)),
    ),
    _mistake(
        "eps-twice",
        "ε both inside and outside the square root",
        "`sqrt(v + eps) + eps`; it is `sqrt(v) + eps`",
        _replace(lambda d: (d.root**2 + d.eps) ** 0.5 + d.eps),
    ),
    _mistake(
        "eps-squared",
        "ε squared",
        "`sqrt(v) + eps**2`; it is `sqrt(v) + eps`",
        _replace(lambda d: d.root + d.eps**2),
    ),
    _mistake(
        "eps-added-to-quotient",
        "ε added to the quotient instead of the denominator",
        "`m / sqrt(v) + eps` without parentheses; it is `m / (sqrt(v) + eps)`",
        _add_to_quotient,
    ),
)

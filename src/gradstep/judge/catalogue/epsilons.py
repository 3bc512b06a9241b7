"""Epsilon: where it stands and how large it is."""

from __future__ import annotations

from gradstep.judge.algebra.anatomy import (
    Denominator,
    NotFoundError,
    correction_of,
    leaf_of,
    of_denominators,
    raised,
    setting,
    sums_with_eps,
)
from gradstep.judge.algebra.expression import (
    ONE,
    ZERO,
    Node,
    add,
    based,
    call,
    factors,
    mul,
    number,
    root,
    square,
)
from gradstep.judge.algebra.expression import substitute as put
from gradstep.judge.algebra.program import Program
from gradstep.judge.catalogue.mistake import ADAM_PAPER, Mistake, by, of_nodes

_READ = ADAM_PAPER + "; the rule's docstring in gradstep.rules says where ε stands in this rule"


def _before_correction(d: Denominator, *, inside: bool) -> Node:
    if d.correction is ONE:
        raise NotFoundError("no correction inside the denominator")
    bare = root(add(square(d.bare), d.eps)) if inside else add(d.bare, d.eps)
    return mul(d.correction, bare)


def _outside_root(program: Program) -> Program:
    inside = {d.node: d for d in sums_with_eps(program) if based(d.bare)[1] != 0.5}

    def edit(_: Program, node: Node) -> Node:
        base, exponent = based(node)
        if base in inside and abs(exponent) == 0.5:
            return raised(add(root(inside[base].root), inside[base].eps), 2 * exponent)
        return node

    return of_nodes(edit)(program)


def _after_correction(program: Program) -> Program:
    """ε added to the root of the corrected v, where the rule adds it to that of v itself."""
    c = correction_of(program, "v")
    if not any(based(f) == (c.node, 0.5) for n in program.nodes("step") for f in factors(n)):
        raise NotFoundError("the correction is no factor of the step")
    eps = setting(program, "eps")
    return program.setting(step=put(program["step"], eps, mul(eps, root(c.node))))


def _added_to_maximum(program: Program) -> Program:
    eps = setting(program, "eps")
    for name in program.slots:
        if program[name].op == "maximum" and any(eps in n.args for n in program[name].args if n.op == "add"):
            _, new = leaf_of(program, name)
            step = put(program["step"], new, add(new, eps))
            return program.replacing(name, put(program[name], eps, ZERO)).setting(step=step)
    raise NotFoundError("no maximum with eps in it")


def _added_to_quotient(program: Program) -> Program:
    """``m / sqrt(v) + eps``: the parentheses are missing."""
    known = {d.node: d for d in sums_with_eps(program) if based(d.bare)[1] == 0.5}

    def edit(_: Program, node: Node) -> Node:
        for factor in factors(node):
            base, exponent = based(factor)
            if base in known and exponent == -1 and node.op == "mul":
                others = [f for f in node.args if f is not factor]
                data = [f for f in others if not f.scalar]
                numbers = [f for f in others if f.scalar]
                d = known[base]
                return mul(*numbers, add(mul(*data, raised(d.root, -1)), d.eps))
        return node

    return of_nodes(edit)(program)


def always(value: str) -> Mistake:
    """One value of ε, written into the formula."""

    def edit(program: Program) -> Program:
        eps = setting(program, "eps")
        return program.rewriting(lambda n: number(float(value)) if n is eps else n)

    return Mistake(
        f"eps-is-{value}",
        f"ε = {value} whatever is set",
        f"`{value}` written into the formula; use the setting eps",
        _READ,
        edit,
    )


VALUES = ("1e-08", "1e-06", "1e-07", "1e-05", "1e-10", "1e-12", "1e-04", "1e-03")
"""What people write for ε."""


def _missing(program: Program) -> Program:
    eps = setting(program, "eps")
    return program.rewriting(lambda n: ZERO if n is eps else n)


MISTAKES = (
    Mistake(
        "eps-inside-root",
        "ε inside the square root",
        "`sqrt(v + eps)`; it is `sqrt(v) + eps`",
        _READ,
        lambda program: of_denominators(program, lambda d: root(add(square(d.root), d.eps))),
        conventions=(*by("RMSprop", "Adagrad", of=("optax", "keras")), *by("Adam", "AdamW", of=("textbook",))),
    ),
    Mistake(
        "eps-squared-inside-root",
        "ε² inside the square root",
        "`sqrt(v + eps**2)`; it is `sqrt(v) + eps`",
        _READ,
        lambda program: of_denominators(program, lambda d: root(add(square(d.root), square(d.eps)))),
    ),
    Mistake(
        "eps-inside-before-correction",
        "ε inside the root and before the bias correction",
        "`sqrt(v + eps)` with the uncorrected v",
        _READ,
        lambda program: of_denominators(program, lambda d: _before_correction(d, inside=True)),
    ),
    Mistake(
        "eps-outside-root",
        "ε outside the square roots",
        "`sqrt(v) + eps`; here it is `sqrt(v + eps)`, and it sets the size of the first steps",
        _READ,
        _outside_root,
    ),
    Mistake(
        "eps-before-correction",
        "ε before the bias correction",
        "`(sqrt(v) + eps)` divided by the root of `1 - beta2**t`: add ε to the root of the corrected v",
        ADAM_PAPER + ": the reordered form at the end of section 2, with its ε̂",
        lambda program: of_denominators(program, lambda d: _before_correction(d, inside=False)),
        conventions=by("Adam", "AdamW", "NAdam", of=("paper", "keras", "bitsandbytes")),
    ),
    Mistake(
        "eps-after-correction",
        "ε after the bias correction",
        "`sqrt(v_hat) + eps`; torch's RAdam adds ε to the root of the uncorrected v",
        "Liu et al., arXiv:1908.03265, and torch.optim.RAdam",
        _after_correction,
        conventions=by("RAdam", of=("optax",)),
    ),
    Mistake(
        "eps-added-to-denominator",
        "ε added to the maximum instead of to |g|",
        "`m / (u + eps)`; torch has `max(beta2 * u, abs(g) + eps)`",
        "Kingma and Ba, arXiv:1412.6980, Algorithm 2, which has no ε; torch.optim.Adamax",
        _added_to_maximum,
        conventions=by(of=("keras",)),
    ),
    Mistake(
        "eps-missing",
        "no ε",
        "a division by `sqrt(v)` alone",
        _READ,
        _missing,
    ),
    Mistake(
        "eps-max",
        "ε as the least value of the denominator instead of added to it",
        "`max(sqrt(v), eps)`; it is `sqrt(v) + eps`",
        _READ,
        lambda program: of_denominators(program, lambda d: call("maximum", d.root, d.eps)),
    ),
    Mistake(
        "eps-twice",
        "ε both inside and outside the square root",
        "`sqrt(v + eps) + eps`; it is `sqrt(v) + eps`",
        _READ,
        lambda program: of_denominators(program, lambda d: add(root(add(square(d.root), d.eps)), d.eps)),
    ),
    Mistake(
        "eps-squared",
        "ε squared",
        "`sqrt(v) + eps**2`; it is `sqrt(v) + eps`",
        _READ,
        lambda program: of_denominators(program, lambda d: add(d.root, square(d.eps))),
    ),
    Mistake(
        "eps-added-to-quotient",
        "ε added to the quotient instead of the denominator",
        "`m / sqrt(v) + eps` without parentheses; it is `m / (sqrt(v) + eps)`",
        _READ,
        _added_to_quotient,
    ),
)

"""What stands beside Adam: AMSGrad's maximum, NAdam's look-ahead, RAdam's rectification."""

from __future__ import annotations

from collections.abc import Callable

from gradstep.judge.algebra.anatomy import (
    GRADIENT,
    NotFoundError,
    exchange,
    first,
    leaf_of,
    raised,
    second,
    setting,
)
from gradstep.judge.algebra.expression import (
    ONE,
    STEP,
    ZERO,
    G,
    Node,
    add,
    based,
    call,
    complement,
    contains,
    factors,
    linear,
    minus,
    mul,
    number,
    power,
    square,
    walk,
)
from gradstep.judge.algebra.expression import substitute as put
from gradstep.judge.algebra.program import Program
from gradstep.judge.catalogue.mistake import Mistake, by, of_nodes
from gradstep.judge.formula import Edit

_NADAM = "Dozat, ICLR 2016 workshop, Algorithm 2"
_RADAM = "Liu et al., arXiv:1908.03265, Algorithm 2"
_AMSGRAD = "Reddi et al., arXiv:1904.09237, Algorithm 2"


def _largest(program: Program) -> tuple[str, str]:
    """A slot that holds the largest value of another, and that other."""
    for name in program.slots:
        if program[name].op == "maximum":
            others = [a for a in program[name].args if a.op == "named" and a.args[0] in program.slots]
            if len(others) == 1 and others[0].args[0] != name:
                return name, others[0].args[0]
    raise NotFoundError("no maximum of another slot")


def _largest_of_corrected(program: Program) -> Program:
    name, of = _largest(program)
    known: list[Node] = []

    def without(c: object, e: float) -> Node:
        known.append(c.node)  # type: ignore[attr-defined]
        return ONE

    program = exchange(program, "v", without)
    _, new = leaf_of(program, of)
    return program.replacing(name, put(program[name], new, mul(new, raised(known[0], -1))))


def _largest_in_average(program: Program) -> Program:
    name, of = _largest(program)
    _, new = leaf_of(program, of)
    return program.replacing(of, put(program[name], new, program[of])).replacing(name, new)


# -- NAdam ------------------------------------------------------------------------------------------------------------


def _schedule(program: Program) -> tuple[Node, ...]:
    """Factors of β that depend on the step: ``1 - 0.5 * 0.96**(t * momentum_decay)``."""
    found = {
        n
        for n in program.nodes()
        if n.op == "add" and n.scalar and ONE in n.args and len(n.args) == 2 and _is_warmup(complement(n))
    }
    if not found:
        raise NotFoundError("no schedule of the momentum")
    return tuple(found)


def _is_warmup(node: Node | None) -> bool:
    powers = [f for f in factors(node) if f.op == "pow" and f.args[0].op == "number"] if node is not None else []
    return any(contains(f.args[1], STEP) for f in powers)


def _constant_mu(program: Program) -> Program:
    """Without the schedule; the product of the momenta is then a power of β₁, which nobody keeps."""
    known = _schedule(program)
    program = program.rewriting(lambda n: ONE if n in known else n)
    products = {}
    for name, product in program.parts.items():
        kept = [f for f in factors(product) if f.op == "memo"]
        if name.startswith("memo ") and len(kept) == 1:
            products[kept[0]] = power(mul(*(f for f in factors(product) if f is not kept[0])), minus(STEP, ONE))
    return program.rewriting(lambda n: products.get(n, n))


def _this_mu(program: Program) -> Program:
    """``mu_t / (1 - mu_product)`` in the place of ``mu_next / (1 - mu_product * mu_next)``."""
    ahead = add(STEP, ONE)
    step = program["step"]
    for node in list(walk(step)):
        part = complement(node)
        if part is not None and contains(part, ahead):
            memo = [f for f in factors(part) if f.op == "named"]
            if memo:
                step = put(step, node, minus(ONE, mul(*memo)))
    if step is program["step"]:
        raise NotFoundError("no product of the momenta")
    return program.setting(step=put(step, ahead, STEP))


def _memo_lost(program: Program) -> Program:
    memos = {n for n in program.nodes() if n.op == "memo"}
    if not memos:
        raise NotFoundError("no number beside the state")
    return program.rewriting(lambda n: program.first_value(n.args[0]) if n in memos else n)


def _no_look_ahead(program: Program) -> Program:
    averaged = [a for a in first(program) if a.averaging]
    along, rest = linear(program["step"], GRADIENT)
    if not averaged or along is ZERO or rest is ZERO:
        raise NotFoundError("no term along the gradient beside the average's")
    return program.setting(step=rest)


# -- RAdam ------------------------------------------------------------------------------------------------------------


def _choices(program: Program) -> list[Node]:
    """Numbers of the step that depend on whether the variance is known."""
    found = [n for n in program.nodes("step") if n.op == "ite" and contains(n.args[0], STEP)]
    if len(found) < 2:
        raise NotFoundError("no early steps of their own")
    return found


def _early(program: Program) -> tuple[Node, bool]:
    """The size of the early steps, and whether they are those where the condition holds."""
    for node in _choices(program):
        _, yes, no = node.args
        if ZERO in (yes, no) and not _divides(yes if no is ZERO else no):
            return node, no is ZERO
    raise NotFoundError("no early steps")


def _divides(node: Node) -> bool:
    """Whether there is more in it than the learning rate and a correction."""
    return len(factors(node)) > 2


def _no_early(program: Program) -> Program:
    node, _ = _early(program)
    return program.setting(step=put(program["step"], node, ZERO))


def _no_early_nor_decay(program: Program) -> Program:
    node, holds = _early(program)
    decay = setting(program, "weight_decay")
    known = call("ite", node.args[0], *((ZERO, ONE) if holds else (ONE, ZERO)))
    program = _no_early(program)
    if program["G"] is not G:
        program = program.setting(G=put(program["G"], decay, mul(decay, known)))
    return program.setting(keep=put(program["keep"], decay, mul(decay, known)))


def _rectified(change: Callable[[Node], Node]) -> Edit:
    """The factors of the adaptive step that are neither the learning rate nor a correction, exchanged."""

    def edit(program: Program) -> Program:
        for node in _choices(program):
            condition, yes, no = node.args
            size = no if yes is ZERO else yes
            if ZERO in (yes, no) and _divides(size):
                plain = [f for f in factors(size) if f.op == "setting" or complement(based(f)[0]) is not None]
                rest = mul(*(f for f in factors(size) if f not in plain))
                made = mul(*plain, change(rest))
                new = call("ite", condition, *((made, no) if size is yes else (yes, made)))
                return program.setting(step=put(program["step"], node, new))
        raise NotFoundError("no rectification")

    return edit


def _threshold(program: Program) -> Program:
    conditions = {n.args[0] for n in _choices(program)}
    five = number(5)
    known = {c: call(c.op, *(number(4) if a is five else a for a in c.args)) for c in conditions}
    return program.setting(step=_put_all(program["step"], known))


def _put_all(expression: Node, by: dict[Node, Node]) -> Node:
    for old, new in by.items():
        expression = put(expression, old, new)
    return expression


def _rho_inf(program: Program) -> Program:
    """``2 / (1 - beta2)`` without the ``- 1``."""
    _choices(program)
    betas = {a.kept for a in second(program)}
    longest = {mul(number(2), raised(minus(ONE, b), -1)) for b in betas}

    def change(_: Program, node: Node) -> Node:
        if node.op == "add" and any(t in longest for t in node.args):
            return add(node, ONE)
        return node

    return of_nodes(change, "step")(program)


MISTAKES = (
    Mistake(
        "amsgrad-of-corrected",
        "AMSGrad's maximum taken of the corrected v",
        "`max(v_max, v_hat)`; torch and the paper take the maximum of v itself",
        _AMSGRAD,
        _largest_of_corrected,
        conventions=by(of=("optax",)),
    ),
    Mistake(
        "amsgrad-in-average",
        "AMSGrad's maximum written into the average itself",
        "`exp_avg_sq = max(...)`: the maximum is a state of its own",
        _AMSGRAD,
        _largest_in_average,
    ),
    # Before the next: once μ is constant, this step's and the next one's cannot be told.
    Mistake(
        "mu-not-ahead",
        "this step's μ where the next one's belongs",
        "`mu_t * m / (1 - mu_product)`; the look-ahead has `mu_next * m / (1 - mu_product * mu_next)`",
        _NADAM,
        _this_mu,
        conventions=by(of=("textbook",)),
    ),
    Mistake(
        "mu-constant",
        "a constant momentum β₁ in the place of the schedule μ_t",
        "`beta1` where the rule has `beta1 * (1 - 0.5 * 0.96 ** (t * momentum_decay))`",
        _NADAM,
        _constant_mu,
        conventions=by(of=("optax", "textbook")),
    ),
    Mistake(
        "mu-product-not-kept",
        "the product of the μ not kept from step to step",
        "`mu_product = mu`; it is `mu_product *= mu`",
        _NADAM,
        _memo_lost,
    ),
    Mistake(
        "no-look-ahead",
        "no gradient term in the step: Adam's with NAdam's schedule",
        "the term `(1 - mu_t) * grad / (1 - mu_product)`",
        _NADAM,
        _no_look_ahead,
    ),
    Mistake(
        "threshold-4",
        "rectification from ρ > 4 on instead of 5",
        "`rho > 4`; the authors' code and torch wait for 5",
        _RADAM,
        _threshold,
        conventions=by(of=("paper",)),
    ),
    Mistake(
        "no-early-steps",
        "no step at all before the variance is known",
        "the branch for ρ ≤ 5: torch takes a plain momentum step there",
        _RADAM + "; the authors' code has it as degenerated_to_sgd",
        _no_early,
    ),
    Mistake(
        "no-early-steps-nor-decay",
        "no step at all and no decay before the variance is known",
        "the branch for ρ ≤ 5: torch takes a plain momentum step there, along the gradient with the decay in it",
        _RADAM + "; pytorch_optimizer's RAdam",
        _no_early_nor_decay,
    ),
    Mistake(
        "never-rectified",
        "no rectification: r = 1",
        "the factor r_t of the adaptive step",
        _RADAM,
        _rectified(lambda r: ONE),
    ),
    Mistake(
        "rectification-not-rooted",
        "the rectification not square-rooted",
        "`sqrt` around r_t",
        _RADAM,
        _rectified(square),
    ),
    Mistake(
        "rho-inf",
        "ρ∞ without the − 1",
        "`2 / (1 - beta2) - 1`",
        _RADAM,
        _rho_inf,
    ),
)

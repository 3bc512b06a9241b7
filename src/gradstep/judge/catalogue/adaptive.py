"""Adam's relatives: AMSGrad's maximum, NAdam's look-ahead, RAdam's rectification."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from gradstep.judge.algebra.anatomy import replace_corrections
from gradstep.judge.algebra.expression import GRADIENT, ONE, STEP, ZERO, G, Node, call, mul, number
from gradstep.judge.algebra.program import NotFoundError, Program, require
from gradstep.judge.formula import Change, Edit


def _find_maximum(program: Program) -> tuple[str, str]:
    """Return the names of a slot that holds the maximum of another slot, and of that other slot."""
    for name in program.slots:
        if program[name].op == "maximum":
            others = [a for a in program[name].args if a.op == "named" and a.args[0] in program.slots]
            if len(others) == 1 and others[0].args[0] != name:
                return name, others[0].args[0]
    raise NotFoundError("no maximum of another slot")


def _maximum_of_corrected(program: Program) -> Program:
    name, other = _find_maximum(program)
    correction = require(program.corrections_of("v"), "correction of v")[0].node
    program = replace_corrections(program, "v", lambda c, e: ONE)
    _, new = program.slot_leaves(other)
    return program.replace_part(name, program[name].substitute(new, new / correction))


def _maximum_in_average(program: Program) -> Program:
    name, other = _find_maximum(program)
    _, new = program.slot_leaves(other)
    return program.replace_part(other, program[name].substitute(new, program[other])).replace_part(name, new)


# -- NAdam


def _find_schedule(program: Program) -> set[Node]:
    """Return the factors of β that depend on the step: ``1 - 0.5 * 0.96**(t * momentum_decay)``."""
    return {
        n
        for n in program.nodes()
        if (part := n.complement) is not None
        for f in part.factors
        if f.op == "pow" and f.args[0].op == "number" and f.args[1].contains(STEP)
    }


def _keep_mu_constant(program: Program) -> Program:
    """Remove the schedule; the product of the momenta is then a power of β₁ and no state."""
    warmups = require(_find_schedule(program), "schedule of the momentum")
    program = program.rewrite(lambda n: ONE if n in warmups else n)
    products = {}
    for name, product in program.parts.items():
        memos = [f for f in product.factors if f.op == "memo"]
        if name.startswith("memo ") and len(memos) == 1:
            products[memos[0]] = mul(*(f for f in product.factors if f is not memos[0])) ** (STEP - 1)
    return program.rewrite(lambda n: products.get(n, n))


def _use_this_mu(program: Program) -> Program:
    """Use ``mu_t / (1 - mu_product)`` instead of ``mu_next / (1 - mu_product * mu_next)``."""
    ahead = STEP + 1
    step = program["step"]
    for node in list(step.walk()):
        part = node.complement
        if part is not None and part.contains(ahead):
            products = [f for f in part.factors if f.op == "named"]
            if products:
                step = step.substitute(node, 1 - mul(*products))
    require(step is not program["step"], "product of the momenta")
    return program.replace(step=step.substitute(ahead, STEP))


def _lose_product(program: Program) -> Program:
    """Let every step start from the first value of NAdam's product of momenta."""
    products = {f for name, part in program.parts.items() if name.startswith("memo ") for f in part.factors}
    return program.rewrite(lambda n: program.first_value(n.args[0]) if n.op == "memo" and n in products else n)


def _remove_look_ahead(program: Program) -> Program:
    """Leave out the term along this step's gradient."""
    averages = [a for a in program.first_moments if a.is_average]
    along, rest = program["step"].linear(GRADIENT)
    require(averages and along is not ZERO and rest is not ZERO, "term along the gradient beside the average's")
    return program.replace(step=rest)


# -- RAdam


def _find_choices(program: Program) -> list[Node]:
    """Return the factors of the step that differ in the early steps, in which the variance is not known yet."""
    choices = [n for n in program.nodes("step") if n.op == "ite" and n.args[0].contains(STEP)]
    require(len(choices) > 1, "early steps of their own")
    return choices


def _find_early(program: Program) -> tuple[Node, bool]:
    """Return the choice that sizes the early steps, and whether they are those where its condition holds."""
    for node in _find_choices(program):
        _, yes, no = node.args
        if ZERO in (yes, no) and not _is_rectified(yes if no is ZERO else no):
            return node, no is ZERO
    raise NotFoundError("no early steps")


def _is_rectified(node: Node) -> bool:
    """Whether a step size has more factors than the learning rate and a correction."""
    return len(node.factors) > 2


def _skip_early(program: Program) -> Program:
    """Take no step while the variance is not known."""
    node, _ = _find_early(program)
    return program.replace(step=program["step"].substitute(node, ZERO))


def _skip_early_and_decay(program: Program) -> Program:
    """Neither step nor decay while the variance is not known."""
    node, holds = _find_early(program)
    decay = program.setting("weight_decay")
    is_late = call("ite", node.args[0], *((ZERO, ONE) if holds else (ONE, ZERO)))
    program = _skip_early(program)
    if program["G"] is not G:
        program = program.replace(G=program["G"].substitute(decay, decay * is_late))
    return program.replace(keep=program["keep"].substitute(decay, decay * is_late))


def _change_rectification(change: Callable[[Node], Node], program: Program) -> Program:
    """Replace the rectification, the factors of the adaptive step besides the learning rate and corrections."""
    for node in _find_choices(program):
        condition, yes, no = node.args
        size = no if yes is ZERO else yes
        if ZERO in (yes, no) and _is_rectified(size):
            plain = [f for f in size.factors if f.op == "setting" or f.split_power()[0].complement is not None]
            rest = mul(*(f for f in size.factors if f not in plain))
            changed = mul(*plain, change(rest))
            new = call("ite", condition, *((changed, no) if size is yes else (yes, changed)))
            return program.replace(step=program["step"].substitute(node, new))
    raise NotFoundError("no rectification")


def _lower_threshold(program: Program) -> Program:
    conditions = {n.args[0] for n in _find_choices(program)}
    step = program["step"]
    for condition in conditions:
        lower = call(condition.op, *(number(4) if a is number(5) else a for a in condition.args))
        step = step.substitute(condition, lower)
    return program.replace(step=step)


def _change_rho_inf(program: Program) -> Program:
    """Use ``2 / (1 - beta2)`` without the ``- 1``."""
    _find_choices(program)
    lengths = {2 / (1 - a.old_weight) for a in program.second_moments}
    return program.rewrite(lambda n: n + 1 if n.op == "add" and lengths & set(n.args) else n, "step")


CHANGES: dict[str, Edit | Change] = {
    "amsgrad-of-corrected": _maximum_of_corrected,
    "amsgrad-in-average": _maximum_in_average,
    "mu-not-ahead": _use_this_mu,
    "mu-constant": _keep_mu_constant,
    "mu-product-not-kept": _lose_product,
    "no-look-ahead": _remove_look_ahead,
    "threshold-4": _lower_threshold,
    "no-early-steps": _skip_early,
    "no-early-steps-nor-decay": _skip_early_and_decay,
    "never-rectified": partial(_change_rectification, lambda r: ONE),
    "rectification-not-rooted": partial(_change_rectification, lambda r: r**2),
    "rho-inf": _change_rho_inf,
}

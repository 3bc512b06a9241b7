"""Mistakes of few rules: AMSGrad, NAdam, RAdam, Adamax, Lion, Adagrad, Adadelta, RMSprop, Adafactor, Muon."""

from collections.abc import Callable, Mapping
from functools import partial

from gradstep.judge.algebra.expression import GRADIENT, ONE, STEP, ZERO, G, Node, P, add, call, mul, number
from gradstep.judge.algebra.program import (
    Average,
    Edit,
    NotFoundError,
    Program,
    edit_nodes,
    only,
    replace_corrections,
    require,
)
from gradstep.judge.formula import RuleChange


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


# -- Adamax, Lion -----------------------------------------------------------------------------------------------------


def _change_maximum(change: Callable[[Node], Node], program: Program) -> Program:
    """Replace ``max(beta2 * u, abs(g))`` by ``change`` of it."""
    for name in program.slots:
        old, _ = program.slot_leaves(name)
        if program[name].op == "maximum" and program[name].args[0].linear(old)[0].op == "setting":
            return program.replace_part(name, change(program[name]))
    raise NotFoundError("no running maximum that forgets")


def _change_sign(make: Callable[[Program, Node], Node], program: Program) -> Program:
    """Replace the direction ``sign(x)`` by ``make`` of ``x``."""
    return program.rewrite(lambda n: make(program, n.args[0]) if n.op == "sign" and n.has("old") else n, "step")


def _average(program: Program) -> Average:
    return only(program.averages, "average")


def _use_one_beta(program: Program) -> Program:
    by_name = program.settings
    require(any(n.op == "sign" and n.has("old") for n in program.nodes("step")), "direction of its own")
    return program.rewrite(lambda n: by_name["betas.0"] if n is by_name.get("betas.1") else n, *program.slots)


# -- Adagrad, Adadelta, RMSprop ---------------------------------------------------------------------------------------


def _average_sum(program: Program) -> Program:
    averages_by_sum = {a.new: a.new / STEP for a in program.second_moments if a.old_weight is ONE}
    return program.replace(step=program["step"].rewrite(lambda n: averages_by_sum.get(n, n)))


def _change_average_of_steps(change: Callable[[Program, Node], Node], program: Program) -> Program:
    """Replace the value that the average of squared steps takes by ``change`` of it."""
    for a in program.second_moments:
        if any(n.args == ("update", False) for n in a.value.walk()):
            return program.replace_part(a.name, a.plus(a.new_weight * change(program, a.value)))
    raise NotFoundError("no average of steps")


def _remove_root_of_steps(program: Program) -> Program:
    for a in program.second_moments:
        update = program.parts.get("update", ONE)
        numerator = next((n for n in update.walk() if n.split_power()[1] == 0.5 and n.contains(a.old)), None)
        if numerator is not None:
            return program.replace_part("update", update.substitute(numerator, ONE))
    raise NotFoundError("no root of past steps")


def _unsquare_mean(program: Program, node: Node) -> Node:
    means = {a.new for a in program.first_moments if a.is_average}
    if node.op == "pow" and node.split_power()[1] == 2 and node.args[0] in means:
        return node.args[0]  # type: ignore[no-any-return]
    return node


# -- Adafactor --------------------------------------------------------------------------------------------------------


def _add_eps(program: Program) -> Program:
    eps = program.settings.get("eps.0", number(2.0**-52))
    bound = eps**2

    def change(node: Node) -> Node:
        if node.op == "maximum" and (bound in node.args or eps in node.args):
            return mul(*(a for a in node.args if a is not bound and a is not eps))
        return node

    new = GRADIENT**2 + eps
    changed = program.rewrite(change).rewrite(lambda n: new if n is GRADIENT**2 else n, *program.slots)
    unbounded = any(changed.parts.get(n) is not program.parts.get(n) for n in ("step", "update"))
    require(unbounded and any(changed[n] is not program[n] for n in program.slots), "bound of the average square")
    return changed


def _remove_parameter_size(_: Program, node: Node) -> Node:
    is_size = node.op == "maximum" and node.contains(P) and not node.has("named", "old")
    return ONE if is_size else node


def _make_rate_constant(program: Program, node: Node) -> Node:
    lr = program.setting("lr")
    is_bounded = node.op == "ite" and node.args[0].op in ("lt", "le") and lr in node.args[1:]
    return lr if is_bounded and not node.has("named", "old") else node


def _remove_clipping(_: Program, node: Node) -> Node:
    is_clip = node.op == "pow" and node.args[0].op == "maximum" and ONE in node.args[0].args
    is_data = node.has("named", "old") and not node.has("rows")
    return ONE if is_clip and is_data else node


def _remove_normalisation(_: Program, node: Node) -> Node:
    is_bounded = node.op == "pow" and node.split_power()[1] == -1 and node.args[0].op == "maximum"
    is_mean = is_bounded and any(a.op == "mean" and a.args[0].op == "named" for a in node.args[0].args)
    return ONE if is_mean else node


def _keep_in_full(program: Program) -> Program:
    """Use one average of the parameter's shape instead of two, of rows and of columns."""
    has_row_means = any(n.op == "mean" and len(n.args) == 2 for n in program.nodes())
    require(has_row_means and len(program.slots) == 2, "rows and columns")
    row, col = program.slots
    old, new = program.slot_leaves(row)
    old_weight, value = program[row].linear(old)
    whole = mul(*(f.args[0] if f.op == "mean" else f for f in value.factors))
    col_old, col_new = program.slot_leaves(col)

    def unfactored(node: Node) -> Node:
        if node.op != "mul" or not {new, col_new} <= set(node.args):
            return node
        return mul(new, *(f for f in node.args if f not in (new, col_new) and not f.has("mean")))

    full = program.rewrite(unfactored, "step")
    return full.replace(**{row: old_weight * old + whole, col: col_old})


# -- Muon


def _orthogonalise(make: Callable[..., Node]) -> Edit:
    """Return the edit that replaces the orthogonal factor by ``make(x, a, b, c, steps, eps)``."""
    return edit_nodes(lambda _, n: make(*n.args) if n.op == "newton_schulz" else n)


def _iterate(x: Node, a: Node, b: Node, c: Node, steps: Node, eps: Node) -> Node:
    return call("newton_schulz", x, a, b, c, steps, eps)


def _change_scale(make: Callable[[Node], Node]) -> Edit:
    """Return the edit that replaces the scale by the matrix's rows and columns."""
    return edit_nodes(lambda _, n: make(n) if n.op == "pow" and n.args[0].op == "maximum" and n.has("rows") else n)


def _exchange_sides(scale: Node) -> Node:
    other = {"rows": "columns", "columns": "rows"}
    return scale.rewrite(lambda n: call(other[n.op], *n.args) if n.op in other else n)


def _needing(operation: str, edits: Mapping[str, Edit]) -> dict[str, RuleChange]:
    """Return the changes of mistakes that only a rule with this operation can have."""
    return {name: RuleChange(edit, needs=operation) for name, edit in edits.items()}


CHANGES: dict[str, RuleChange] = {
    **_needing(
        "maximum",
        {
            "amsgrad-of-corrected": _maximum_of_corrected,
            "amsgrad-in-average": _maximum_in_average,
            "no-maximum": partial(_change_maximum, lambda u: add(*u.args)),
            "maximum-never-forgets": partial(
                _change_maximum, lambda u: call("maximum", u.args[0].split_scalars()[1], u.args[1])
            ),
            "no-magnitude": partial(_change_maximum, lambda u: u.substitute(call("abs", GRADIENT), GRADIENT)),
        },
    ),
    **_needing(
        "pow",
        {
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
            "lr-decay-off-by-one": lambda program: program.replace(step=program["step"].substitute(STEP - 1, STEP)),
            "sum-as-average": _average_sum,
            "no-root-of-steps": _remove_root_of_steps,
            "steps-with-lr": partial(
                _change_average_of_steps, lambda program, value: program.setting("lr") ** 2 * value
            ),
            "steps-from-gradient": partial(_change_average_of_steps, lambda program, value: GRADIENT**2),
            "centered-not-squared": edit_nodes(_unsquare_mean),
            "eps1-added": _add_eps,
            "not-relative": edit_nodes(_remove_parameter_size, "step"),
            "rate-not-falling": edit_nodes(_make_rate_constant, "step"),
            "not-clipped": edit_nodes(_remove_clipping, "step"),
            "factors-not-normalised": edit_nodes(_remove_normalisation, "step"),
            "beta2-reversed": edit_nodes(
                lambda _, n: 1 - n if n.op == "pow" and n.args[0] is STEP and n.args[1].op != "number" else n
            ),
            "not-factored": _keep_in_full,
        },
    ),
    **_needing(
        "sign",
        {
            "sign-of-average": partial(_change_sign, lambda program, x: call("sign", _average(program).new)),
            "one-beta": _use_one_beta,
            "sign-of-gradient": partial(_change_sign, lambda program, x: call("sign", GRADIENT)),
            "sign-of-old-average": partial(_change_sign, lambda program, x: call("sign", _average(program).old)),
            "no-sign": partial(_change_sign, lambda program, x: x),
        },
    ),
    **_needing(
        "newton_schulz",
        {
            "not-orthogonal": _orthogonalise(lambda x, *_: x),
            "normalised-only": _orthogonalise(lambda x, *_: x / call("sum", x**2) ** 0.5),
            "cubic-iteration": _orthogonalise(
                lambda x, a, b, c, k, eps: _iterate(x, number(1.5), number(-0.5), ZERO, k, eps),
            ),
            "one-iteration-less": _orthogonalise(lambda x, a, b, c, k, eps: _iterate(x, a, b, c, k - 1, eps)),
            "one-iteration-more": _orthogonalise(lambda x, a, b, c, k, eps: _iterate(x, a, b, c, k + 1, eps)),
            "eps-added-to-norm": _orthogonalise(
                lambda x, a, b, c, k, eps: _iterate(x, a, b, c, k, call("sum", x**2) ** 0.5 + eps)
            ),
        },
    ),
    **_needing(
        "rows",
        {
            "scale-missing": _change_scale(lambda scale: ONE),
            "scale-of-columns": _change_scale(_exchange_sides),
        },
    ),
}

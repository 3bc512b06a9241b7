"""Mistakes of few rules: Adamax, Lion, Adagrad, Adadelta, RMSprop, Adafactor."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from gradstep.judge.algebra.expression import GRADIENT, ONE, STEP, Node, P, add, call, mul, number
from gradstep.judge.algebra.program import Average, NotFoundError, Program, only, require
from gradstep.judge.catalogue.mistake import edit_nodes
from gradstep.judge.formula import Change, Edit

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
    return ONE if is_clip and node.has("named", "old") else node


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


CHANGES: dict[str, Edit | Change] = {
    "no-maximum": partial(_change_maximum, lambda u: add(*u.args)),
    "maximum-never-forgets": partial(
        _change_maximum, lambda u: call("maximum", u.args[0].split_scalars()[1], u.args[1])
    ),
    "no-magnitude": partial(_change_maximum, lambda u: u.substitute(call("abs", GRADIENT), GRADIENT)),
    "sign-of-average": partial(_change_sign, lambda program, x: call("sign", _average(program).new)),
    "one-beta": _use_one_beta,
    "sign-of-gradient": partial(_change_sign, lambda program, x: call("sign", GRADIENT)),
    "sign-of-old-average": partial(_change_sign, lambda program, x: call("sign", _average(program).old)),
    "no-sign": partial(_change_sign, lambda program, x: x),
    "lr-decay-off-by-one": lambda program: program.replace(step=program["step"].substitute(STEP - 1, STEP)),
    "sum-as-average": _average_sum,
    "no-root-of-steps": _remove_root_of_steps,
    "steps-with-lr": partial(_change_average_of_steps, lambda program, value: program.setting("lr") ** 2 * value),
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
}

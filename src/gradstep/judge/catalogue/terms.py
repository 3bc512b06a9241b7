"""Bias correction, epsilon and weight decay: missing, twice, in the wrong place, of the wrong size or step."""

from collections.abc import Callable
from functools import partial

from gradstep.judge.algebra.expression import GRADIENT, KEEP, MOVE, ONE, STEP, ZERO, G, Node, P, call, mul, number
from gradstep.judge.algebra.program import (
    Average,
    Correction,
    Denominator,
    Edit,
    NotFoundError,
    Program,
    Replacement,
    all_of,
    any_of,
    divide_terms,
    find_coupled_decay,
    find_decoupled_decay,
    only,
    replace_corrections,
    replace_denominators,
    require,
    step_size,
    sums_with_eps,
)
from gradstep.judge.formula import RuleChange, habit

# -- bias correction and epsilon ---------------------------------------------------------------------------------------


def _replace(moment: str, by: Replacement) -> Edit:
    """Return the edit that replaces each correction of the moment by ``by`` of it."""
    return lambda program: replace_corrections(program, moment, by)


def _change(moment: str, change: Callable[[Correction], Node]) -> Edit:
    """Return the edit that replaces the moment's corrections by powers of β by ``change`` of them."""

    def by(c: Correction, exponent: float) -> Node:
        require(c.beta, "power of beta")
        return change(c) ** exponent

    return _replace(moment, by)


_remove = {moment: _replace(moment, lambda c, e: ONE) for moment in "mv"}


def _swap(program: Program) -> Program:
    m, v = program.correction_of("m"), program.correction_of("v")
    swap = {m.node: v.node, v.node: m.node}
    return program.rewrite(lambda n: swap.get(n, n), "step")


def _use_other_beta(moment: str, other: str) -> Edit:
    def edit(program: Program) -> Program:
        program.correction_of(moment)
        wrong = program.correction_of(other).node
        return replace_corrections(program, moment, lambda c, e: wrong**e)

    return edit


def _store_corrected(moment: str) -> Edit:
    """Keep the corrected averages as the state, and use them as they are."""

    def edit(program: Program) -> Program:
        c = program.correction_of(moment)
        averages = program.first_moments if moment == "m" else program.second_moments
        stored = {a.name: program[a.name] / c.node for a in averages if a.old_weight is c.beta}
        return _remove[moment](program).replace(**stored)

    return edit


def _store_all_corrected(program: Program) -> Program:
    return all_of(*(_store_corrected(m) for m in "mv" if program.corrections_of(m)))(program)


_correct_as_at_first = {m: _change(m, lambda c: c.node.substitute(c.of, c.of.args[0])) for m in "mv"}


def _has_both(program: Program) -> bool:
    return all(program.corrections_of(moment) for moment in "mv")


def _correct_twice(program: Program) -> Program:
    """Correct the averages, and the step size again."""
    m, v = program.correction_of("m"), program.correction_of("v")
    return program.replace(step=program["step"] / m.node * v.node**0.5)


def debias_averages(program: Program) -> Program:
    """Move the corrections into the averages, which are then unbiased if they are updated at every step."""
    uncorrected = any_of(*_remove.values())(program)
    unbiased = {}
    betas = {c.beta for c in program.corrections}
    for average in program.averages:
        if average.is_average and average.old_weight in betas:
            beta_t = average.old_weight**STEP
            hat = (beta_t - average.old_weight) / (beta_t - 1)
            unbiased[average.name] = hat * average.old + (1 - hat) * average.value
    return uncorrected.replace(**unbiased)


def _add_correction(program: Program) -> Program:
    """Divide averages that the rule does not correct by ``1 - beta**t``."""
    betas = {c.beta for c in program.corrections}
    corrected = {
        a.new: a.new / (1 - a.old_weight**STEP)
        for a in program.averages
        if a.is_average and a.of_squares and a.old_weight not in betas
    }
    if any(n in corrected for n in program.nodes()):
        return program.rewrite(lambda n: corrected.get(n, n))
    step = _correct_maxima(program)
    if step is program["step"] and step.has("sign"):
        step = step / (1 - program.settings["betas.0"] ** STEP)
    return program.replace(step=step)


def _correct_maxima(program: Program) -> Node:
    step = program["step"]
    for name in program.slots:
        for node in program[name].walk():
            if node.op == "maximum":
                beta = next((f for f in node.walk() if f.op == "setting" and "betas" in f.args[0]), None)
                new = next((n for n in step.walk() if n.op == "named" and n.args[0] == name), None)
                if beta is not None and new is not None:
                    step = step.substitute(new, new / (1 - beta**STEP))
    return step


def _shift_step(moment: str, by: int) -> Edit:
    return _change(moment, lambda c: c.node.substitute(STEP, STEP + by))


def _uses_step_in_power(program: Program) -> bool:
    return any(n.op == "pow" and any(a.contains(STEP) for a in n.args) for n in program.nodes())


def uses_step(program: Program) -> bool:
    """Whether the rule's numbers depend on the step number."""
    return STEP in program.nodes()


def _replace_sums(make: Callable[[Denominator], Node]) -> Edit:
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


# -- weight decay ------------------------------------------------------------------------------------------------------


def _change_decoupled(change: Callable[[Program, Node], Node], program: Program) -> Program:
    """Replace the factor of the decay on the weight by ``change`` of it."""
    return program.replace(keep=1 - change(program, find_decoupled_decay(program)))


def _change_coupled(change: Callable[[Program, Node], Node], program: Program) -> Program:
    """Replace the factor of the decay in the gradient by ``change`` of it."""
    return program.replace(G=G + change(program, find_coupled_decay(program)) * P)


def _scale(factor: float) -> Edit:
    return any_of(*(partial(change, lambda p, d: factor * d) for change in (_change_decoupled, _change_coupled)))


def _move_to_gradient(program: Program) -> Program:
    find_decoupled_decay(program)
    return program.replace(G=program["G"] + program.setting("weight_decay") * P, keep=ONE)


def _move_to_weight(program: Program) -> Program:
    decay = program.setting("lr") * find_coupled_decay(program)
    return program.replace(G=G, keep=program["keep"] - decay)


def _decay_twice(program: Program) -> Program:
    decay, lr = program.setting("weight_decay"), program.setting("lr")
    return program.replace(G=G + decay * P, keep=1 - lr * decay)


def _decay_after(program: Program) -> Program:
    require(program["keep"] is not ONE, "decay on the weight")
    return program.replace(p=KEEP * (P - MOVE))


def _multiply_by_step_size(program: Program) -> Program:
    """Multiply the decay by the step size, as in ``step_size * (update + weight_decay * p)``."""
    size = step_size(program)
    require(size is not program.setting("lr"), "other factor of the step")
    return _change_decoupled(lambda p, d: p.setting("weight_decay") * size, program)


def _multiply_by_corrections(program: Program) -> Program:
    corrections = program.correction_of("v").node ** 0.5 / program.correction_of("m").node
    return _change_decoupled(lambda p, d: d * corrections, program)


def _skip_at_zero(program: Program) -> Program:
    moving = call("ne", GRADIENT if program["G"] is G else G, ZERO)
    changed = program
    if program["keep"] is not ONE:
        changed = changed.replace(p=program["p"].substitute(KEEP * P, call("where", moving, KEEP * P, P)))
    if program["G"] is not G:
        changed = changed.replace(G=call("where", call("ne", G, ZERO), program["G"], G))
    return changed


def _decay_along(direction: Node, program: Program) -> Program:
    """Multiply the decay by ``direction`` instead of the weight."""
    if program["keep"] is not ONE:
        return program.replace(keep=ONE, p=program["p"] - find_decoupled_decay(program) * direction)
    return program.replace(G=G + find_coupled_decay(program) * direction)


def _decay_before_and_after(program: Program) -> Program:
    """Decay the weight before the update and again after it."""
    require(program["keep"] is not ONE, "decay on the weight")
    return program.replace(p=KEEP * program["p"])


def _move_to_numerator(program: Program) -> Program:
    """Add the decay to the average gradient, so that it is divided by the root too."""
    new = only(program.first_moments, "average").new
    decay = program.setting("weight_decay") * P
    along, rest = program["step"].linear(new)
    require(program.second_moments and along is not ZERO, "step along an average over a root")
    step = along * new + along * _undo_corrections(along) * decay + rest
    return program.replace(G=G, keep=ONE, step=step)


def _move_to_denominator(program: Program) -> Program:
    decay = program.setting("weight_decay") * P
    find_decoupled_decay(program)
    return replace_denominators(program, lambda d: d.node + decay).replace(keep=ONE)


def _undo_corrections(along: Node) -> Node:
    """Return the factor that undoes the corrections of the average, which the decay does not have."""
    own = [f for f in along.factors if f.scalar and f.split_power()[0].complement is not None]
    return mul(*(1 / f for f in own))


def _in_one_moment(own: Callable[[Program], tuple[Average, ...]], program: Program) -> Program:
    """Add the decay to the gradient of one moment only."""
    require(program.first_moments and program.second_moments, "two averages")
    whole = G + program.setting("weight_decay") * P
    names = {a.name for a in own(program)}
    parts = {n: e.substitute(GRADIENT, whole if n in names else G) for n, e in program.parts.items()}
    return program.replace(**{**parts, "G": G, "keep": ONE})


remove_decay = _scale(0.0)
"""The edit that leaves the decay out."""


CHANGES: dict[str, Edit | RuleChange] = {
    "no-bias-correction": RuleChange(all_of(*_remove.values()), when=_has_both),
    **{f"no-{m}-correction": edit for m, edit in _remove.items()},
    "step-from-zero": habit(offset=-1, when=uses_step),
    "step-from-two": habit(offset=1, when=_uses_step_in_power),
    "correction-stored": _store_all_corrected,
    **{f"{m}-correction-stored": RuleChange(_store_corrected(m), when=_has_both) for m in "mv"},
    **{f"{m}-correction-multiplied": _replace(m, lambda c, e: c.node ** (-e)) for m in "mv"},
    "v-correction-not-rooted": _replace("v", lambda c, e: c.node ** (2 * e)),
    "m-corrected-twice": _replace("m", lambda c, e: c.node ** (2 * e)),
    "corrected-twice": _correct_twice,
    "corrections-swapped": _swap,
    "m-corrected-by-beta2": _use_other_beta("m", "v"),
    "v-corrected-by-beta1": _use_other_beta("v", "m"),
    "correction-per-step-only": any_of(*_correct_as_at_first.values()),
    **{f"{m}-correction-per-step-only": edit for m, edit in _correct_as_at_first.items()},
    **{f"{m}-corrected-by-power": _change(m, lambda c: c.of) for m in "mv"},
    **{f"{m}-correction-times-t": _change(m, lambda c: 1 - c.of.args[0] * c.of.args[1]) for m in "mv"},
    **{f"{m}-corrected-with-plus": _change(m, lambda c: 1 + c.of) for m in "mv"},
    **{f"{m}-correction-late": RuleChange(_shift_step(m, -1), when=_has_both) for m in "mv"},
    **{f"{m}-correction-early": RuleChange(_shift_step(m, 1), when=_has_both) for m in "mv"},
    "correction-added": _add_correction,
    "steps-not-counted": lambda program: program.rewrite(lambda n: ONE if n is STEP else n),
    "eps-inside-root": _replace_sums(lambda d: (d.root**2 + d.eps) ** 0.5),
    "eps-squared-inside-root": _replace_sums(lambda d: (d.root**2 + d.eps**2) ** 0.5),
    "eps-inside-before-correction": _replace_sums(partial(_add_before_correction, inside=True)),
    "eps-outside-root": _move_outside_root,
    "eps-before-correction": _replace_sums(partial(_add_before_correction, inside=False)),
    "eps-after-correction": _add_after_correction,
    "eps-added-to-denominator": _add_to_maximum,
    "eps-missing": partial(set_eps, 0.0),
    "eps-max": _replace_sums(lambda d: call("maximum", d.root, d.eps)),
    "eps-twice": _replace_sums(lambda d: (d.root**2 + d.eps) ** 0.5 + d.eps),
    "eps-squared": _replace_sums(lambda d: d.root + d.eps**2),
    "eps-added-to-quotient": _add_to_quotient,
    "decay-in-gradient": RuleChange(_move_to_gradient, when=find_decoupled_decay),
    "decay-on-weight": RuleChange(_move_to_weight, when=find_coupled_decay),
    "decay-after": _decay_after,
    # As where a schedule's multiplier takes the place of lr.
    "decay-without-lr": partial(_change_decoupled, lambda p, d: divide_terms(d, p.setting("lr"))),
    "decay-lr-twice": partial(_change_decoupled, lambda p, d: p.setting("lr") * d),
    "decay-with-lr": partial(_change_coupled, lambda p, d: p.setting("lr") * d),
    "decay-by-step-size": _multiply_by_step_size,
    "decay-by-both-corrections": _multiply_by_corrections,
    "decay-in-numerator": _move_to_numerator,
    "decay-in-denominator": _move_to_denominator,
    "decay-in-m-only": partial(_in_one_moment, lambda p: p.first_moments),
    "decay-in-v-only": partial(_in_one_moment, lambda p: p.second_moments),
    "decay-sign": _scale(-1),
    "decay-doubled": _scale(2),
    "decay-halved": _scale(0.5),
    "decay-twice": _decay_twice,
    "decay-without-weight": partial(_decay_along, ONE),
    "decay-of-gradient": partial(_decay_along, G),
    "decay-before-and-after": _decay_before_and_after,
    "decay-of-sign": partial(_decay_along, call("sign", P)),
    "decay-skipped-at-zero": _skip_at_zero,
    "skips-zero-gradients": habit(skips_zero=True),
}

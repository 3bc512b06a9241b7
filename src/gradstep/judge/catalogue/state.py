"""State, momentum and the loop around a rule: wrong averages, buffers, counting, groups, missing gradients.

Also the size and the direction of the step, and changes of the gradient before the rule uses it.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import NamedTuple, TypeAlias

from gradstep.judge.algebra.expression import COUNT, GRADIENT, ONE, STEP, ZERO, G, Node, P, call, mul, number
from gradstep.judge.algebra.program import (
    Average,
    Edit,
    Program,
    divide_terms,
    edit_nodes,
    find_coupled_decay,
    only,
    require,
    sums_with_eps,
)
from gradstep.judge.catalogue.terms import debias_averages, uses_step
from gradstep.judge.formula import RuleChange, habit

# -- state, and the loop around a rule ---------------------------------------------------------------------------------


class Blend(NamedTuple):
    """A sum ``beta * old + (1 - beta) * value``, whether it is a slot or not."""

    node: Node
    beta: Node
    old: Node
    value: Node


def find_blends(program: Program) -> Iterator[Blend]:
    """Yield every sum of two terms with the weights β and 1 − β."""
    seen = set()
    for expression in program.parts.values():
        for node in expression.walk():
            if node.op != "add" or len(node.args) != 2 or node in seen or node.scalar:
                continue
            seen.add(node)
            for one, other in (node.args, node.args[::-1]):
                beta, old = one.split_scalars()
                new_weight, value = other.split_scalars()
                if beta.op != "number" and new_weight.complement is beta:
                    yield Blend(node, beta, old, value)


def _is_second(program: Program, blend: Blend) -> bool:
    """Return whether an average belongs to the second moment: by its β, or by the β of an average of squares."""
    if blend.beta.op == "setting" and blend.beta.args[0] in ("betas.0", "betas.1"):
        return bool(blend.beta.args[0] == "betas.1")
    return any(a.old_weight is blend.beta for a in program.second_moments)


def _reweight(
    moment: str, make: Callable[[Program, Blend], Node], program: Program, *, everywhere: bool = False
) -> Program:
    """Replace the averages of a moment (``m`` or ``v``) by ``make``; if several share β, only those of the square."""
    own = [b for b in find_blends(program) if _is_second(program, b) == (moment == "v")]
    squares = [b for b in own if b.value.contains(GRADIENT**2)]
    replacements = {b.node: make(program, b) for b in (own if everywhere else squares or own)}
    return program.rewrite(lambda n: replacements.get(n, n))


def _other_beta(program: Program, b: Blend) -> Node:
    by_name = program.settings
    other = {"betas.0": "betas.1", "betas.1": "betas.0"}.get(str(b.beta.args[0]) if b.beta.op == "setting" else "")
    return by_name[other or ""]


def _replace_square(change: Callable[[Program], Node], program: Program) -> Program:
    """Replace the squared gradient in the averages by ``change``."""
    whole, new = GRADIENT**2, change(program)
    return program.rewrite(lambda n: new if n is whole else n, *(require(program.slots, "state")))


def _maximum_slots(program: Program) -> list[str]:
    return [n for n in program.slots if program[n].op == "maximum"]


def _step_moments(program: Program) -> tuple[Average, ...]:
    """Return the averages of the gradient that the step follows."""
    alone = len(program.averages) == 1
    return tuple(
        a
        for a in program.first_moments
        if a.is_average and a.value is GRADIENT and (alone or program["step"].linear(a.new)[0] is not ZERO)
    )


def _remove_roots(_: Program, node: Node) -> Node:
    if not node.elementwise:
        return node
    base, exponent = node.split_power()
    if abs(exponent) == 0.5 and node.has("named", "old"):
        return base ** (2 * exponent)
    if node.op == "mul" and any(_was_root(f) for f in node.args):
        return mul(*(f**2 if f.scalar and abs(f.split_power()[1]) == 0.5 else f for f in node.args))
    return node


def _was_root(node: Node) -> bool:
    # Roots below are removed already, so a factor with state and without a root had one.
    base, exponent = node.split_power()
    return not node.scalar and abs(exponent) == 1 and base.op in ("named", "add", "maximum")


def _follow_gradient(program: Program) -> Program:
    moment = only(_step_moments(program), "average of the gradient")
    require(program.second_moments or _maximum_slots(program), "root")
    return program.replace(step=program["step"].substitute(moment.new, GRADIENT))


def _start_at(moments: str, value: Callable[[Average], Node], program: Program) -> Program:
    """Start the averages of each of these moments (``m``, ``v`` or ``mv``) at ``value`` of them instead of zero."""
    for moment in moments:
        squares = [a for a in program.second_moments if a.is_average and not a.old_weight.contains(STEP)]
        for a in require(squares if moment == "v" else _step_moments(program), "such average"):
            start = call("ite", call("eq", COUNT, ONE), value(a), a.old)
            program = program.replace_part(a.name, program[a.name].substitute(a.old, start))
    return program


Slots: TypeAlias = Callable[[Program], Iterable[str]]


def _update_late(slots: Slots, program: Program) -> Program:
    """Take the step with the old state of these slots."""
    old_by_new = dict(program.slot_leaves(name)[::-1] for name in slots(program))
    return program.rewrite(lambda n: old_by_new.get(n, n), "step")


def _never_update(slots: Slots, program: Program) -> Program:
    """Compute the new values of these slots and discard them."""
    return program.replace(**{name: program.slot_leaves(name)[0] for name in slots(program)})


def _first_slots(program: Program) -> list[str]:
    return [a.name for a in program.first_moments]


def _second_slots(program: Program) -> list[str]:
    return [a.name for a in program.second_moments] + _maximum_slots(program)


def _lose(slots: Slots, program: Program) -> Program:
    """Start each step with the first values of these slots."""
    first = {program.slot_leaves(n)[0]: program.first_value(n.removeprefix("new ")) for n in slots(program)}
    return program.rewrite(lambda n: first.get(n, n))


def lose(slot: str) -> Edit:
    """Return the edit that computes a slot and does not keep it."""
    return partial(_lose, lambda program: {f"new {slot}"} & program.parts.keys())


def _counts_and_keeps(program: Program) -> bool:
    first = program.rewrite(lambda n: program.first_value(n.args[0]) if n.op == "memo" else n)
    # Whether the first step ignores the old state: its weight depends on the step, or is 0 then.
    forgets = any(a.old_weight.contains(STEP) for a in program.averages) or len(first.averages) < len(program.averages)
    counted = any(STEP in n.args and n.op != "eq" for n in program.nodes())  # more than a test for the first step
    return bool(program.slots) and counted and not forgets


def _reads_rate(program: Program) -> bool:
    """Whether steps use the learning rate; Rprop's only fills its state."""
    return any(n.op == "setting" and n.args[0] == "lr" for n in program.nodes())


# -- momentum, the step, and the gradient ------------------------------------------------------------------------------


def _find_buffer(program: Program) -> Average:
    """Return the momentum buffer: the one slot that is a sum of gradients."""
    return only((a for a in program.first_moments if not a.is_average), "momentum buffer")


def _move_lr_into_buffer(program: Program) -> Program:
    lr = program.setting("lr")
    buffer = _find_buffer(program)
    along, rest = program["step"].linear(buffer.new)
    require(along is not ZERO, "step along the buffer")
    changed = program.replace_part(buffer.name, buffer.plus(lr * buffer.new_weight * buffer.value))
    return changed.replace(step=divide_terms(along, lr) * buffer.new + rest)


def _change_buffer(make: Callable[[Average], Node], program: Program) -> Program:
    """Replace the new momentum by ``make`` of the buffer."""
    buffer = _find_buffer(program)
    return program.replace_part(buffer.name, make(buffer))


def _dampen_first(buffer: Average) -> Node:
    require(buffer.new_weight.op == "ite", "first step of its own")
    return buffer.plus(buffer.new_weight.args[2] * buffer.value)


def _change_direction(look_ahead: bool, make: Callable[[Average], Node], program: Program) -> Program:
    """Replace the direction of a step, with Nesterov's look-ahead or without it, by ``make`` of the buffer."""
    buffer = _find_buffer(program)
    looks_ahead = program["step"].linear(GRADIENT)[0] is not ZERO
    require(buffer.value is GRADIENT and looks_ahead == look_ahead, "such momentum of the gradient")
    return program.replace(step=program.setting("lr") * make(buffer))


def _divide_after_buffer(program: Program) -> Program:
    """Divide by the root after the momentum instead of before it."""
    buffer = _find_buffer(program)
    roots = {d.node for d in sums_with_eps(program)}
    quotients = [f for f in buffer.value.factors if f.split_power()[0] in roots and f.split_power()[1] == -1]
    require(quotients, "division before the momentum")
    value = mul(*(f for f in buffer.value.factors if f not in quotients))
    changed = program.replace_part(buffer.name, buffer.plus(buffer.new_weight * value))
    return changed.replace(step=changed["step"].substitute(buffer.new, mul(buffer.new, *quotients)))


def _add_look_ahead(program: Program) -> Program:
    """Use NAdam's numerator in Adam: ``beta1 * m_hat + (1 - beta1) * grad / (1 - beta1**t)``."""
    m = only((a for a in program.first_moments if a.is_average and a.value is GRADIENT), "average of the gradient")
    along, rest = program["step"].linear(m.new)
    require(along is not ZERO and program["step"].linear(GRADIENT)[0] is ZERO, "step along the average alone")
    ahead = m.old_weight * m.new + m.new_weight * GRADIENT
    return program.replace(step=along * ahead + rest)


def _change_step(change: Callable[[Program, Node], Node]) -> Edit:
    return lambda program: program.replace(step=change(program, program["step"]))


def _negate_gradient(program: Program) -> Program:
    require(program.slots or program["G"].op == "add", "difference to a step uphill")
    return program.rewrite(lambda n: -n if n is G else n, "G")


def _replace_gradient(new: Node) -> Edit:
    return lambda program: program.rewrite(lambda n: new if n is G else n)


def _clamp(limit: float) -> Node:
    low = call("maximum", G, number(-limit))
    return -call("maximum", -low, number(-limit))


_NORM = call("sum", G**2) ** 0.5


CHANGES: dict[str, Edit | RuleChange] = {
    "betas-swapped": edit_nodes(
        lambda program, n: (
            program.settings.get("betas.1" if n.args[0] == "betas.0" else "betas.0", n)
            if n.op == "setting" and n.args[0] in ("betas.0", "betas.1")
            else n
        )
    ),
    "v-from-gradient": partial(_replace_square, lambda program: GRADIENT),
    "v-from-magnitude": partial(_replace_square, lambda program: call("abs", GRADIENT)),
    "v-not-rooted": edit_nodes(_remove_roots),
    "rest1-missing": partial(_reweight, "m", lambda p, b: b.beta * b.old + b.value),
    "rest2-missing": partial(_reweight, "v", lambda p, b: b.beta * b.old + b.value, everywhere=True),
    "m-weights-swapped": partial(_reweight, "m", lambda p, b: (1 - b.beta) * b.old + b.beta * b.value),
    "v-weights-swapped": partial(_reweight, "v", lambda p, b: (1 - b.beta) * b.old + b.beta * b.value),
    "m-rest-of-beta2": partial(_reweight, "m", lambda p, b: b.beta * b.old + (1 - _other_beta(p, b)) * b.value),
    "v-rest-of-beta1": partial(_reweight, "v", lambda p, b: b.beta * b.old + (1 - _other_beta(p, b)) * b.value),
    "m-with-beta2": partial(_reweight, "m", lambda p, b: b.node.substitute(b.beta, _other_beta(p, b))),
    "v-with-beta1": partial(_reweight, "v", lambda p, b: b.node.substitute(b.beta, _other_beta(p, b))),
    "m-beta-missing": partial(_reweight, "m", lambda p, b: b.old + (1 - b.beta) * b.value),
    "v-beta-missing": partial(_reweight, "v", lambda p, b: b.old + (1 - b.beta) * b.value),
    "v-rest-squared": partial(_reweight, "v", lambda p, b: b.beta * b.old + (1 - b.beta) ** 2 * b.value),
    "step-along-gradient": _follow_gradient,
    "v-from-average": partial(_replace_square, lambda program: _step_moments(program)[0].new ** 2),
    "v-from-parameter": partial(_replace_square, lambda program: P**2),
    "m-from-gradient-first": partial(_start_at, "m", lambda a: a.value),
    "v-from-square-first": partial(_start_at, "v", lambda a: a.value),
    "averages-from-first-values": partial(_start_at, "mv", lambda a: a.value),
    "m-from-one": partial(_start_at, "m", lambda a: ONE),
    "v-from-one": partial(_start_at, "v", lambda a: ONE),
    "averages-from-one": partial(_start_at, "mv", lambda a: ONE),
    "m-from-parameter": partial(_start_at, "m", lambda a: P),
    "m-updated-late": RuleChange(partial(_update_late, _first_slots), when=lambda p: len(p.slots) > 1),
    "v-updated-late": RuleChange(partial(_update_late, _second_slots), when=lambda p: len(p.slots) > 1),
    "state-updated-late": partial(_update_late, lambda p: p.slots),
    "m-never-updated": partial(_never_update, _first_slots),
    "v-never-updated": partial(_never_update, _second_slots),
    "state-not-stored": RuleChange(partial(_lose, lambda p: p.slots), when=lambda p: len(p.slots) > 1),
    "parameter-not-moved": lambda program: program.replace(p=P),
    "steps-of-all": habit(clock="calls", when=uses_step),
    "steps-of-all-debiased": habit(debias_averages, clock="calls"),
    "steps-per-visit": habit(clock="visits", when=uses_step),
    "state-shared": habit(shared=True),
    "missing-as-zero": habit(missing="zero"),
    "stops-at-missing": habit(missing="ends"),
    "gradient-written": habit(writes_gradient=True, when=find_coupled_decay),
    "settings-latched": habit(latched=True, when=_reads_rate),
    "rate-of-constructor": habit(latched=True, one_rate=True, when=_reads_rate),
    "first-group-only": habit(first_group=True),
    "state-not-saved": habit(forgets="all", when=_counts_and_keeps),
    "slots-not-saved": habit(forgets="slots"),
    "steps-not-saved": habit(forgets="steps", when=uses_step),
    "ascent": _change_step(lambda program, step: -step),
    "gradient-negated": _negate_gradient,
    "lr-twice": _change_step(lambda program, step: program.setting("lr") * step),
    "lr-missing": _change_step(lambda program, step: divide_terms(step, program.setting("lr"))),
    "lr-over-root-of-t": _change_step(lambda program, step: step / STEP**0.5),
    "lr-over-t": _change_step(lambda program, step: step / STEP),
    "step-by-sign": RuleChange(
        _change_step(lambda program, step: program.setting("lr") * call("sign", step)),
        when=lambda program: not any(n.op == "sign" for n in program.nodes("step")),
    ),
    "lr-in-buffer": _move_lr_into_buffer,
    "first-buffer-damped": partial(_change_buffer, _dampen_first),
    "momentum-averaged": partial(_change_buffer, lambda b: b.plus((1 - b.old_weight) * b.value)),
    "momentum-averaged-after-first": partial(
        _change_buffer, lambda b: b.plus(call("ite", call("eq", STEP, ONE), ONE, 1 - b.old_weight) * b.value)
    ),
    "momentum-undecayed": partial(_change_buffer, lambda b: b.old + b.new_weight * b.value),
    "nesterov-undamped": partial(_change_direction, True, lambda b: GRADIENT + b.new),
    "nesterov-only-buffer": partial(_change_direction, True, lambda b: b.old_weight * b.new),
    "momentum-twice": partial(_change_direction, False, lambda b: GRADIENT + b.new),
    "momentum-of-gradient": _divide_after_buffer,
    "look-ahead-added": _add_look_ahead,
    **{f"gradient-clamped-at-{limit:g}": _replace_gradient(_clamp(limit)) for limit in (1.0, 0.5, 5.0, 10.0, 0.1)},
    # As torch's clip_grad_norm_, but for each tensor by itself.
    "gradient-clipped-by-norm": _replace_gradient(G / call("maximum", _NORM, number(1))),
    "gradient-normalised": _replace_gradient(G / _NORM),
    "gradient-centred": _replace_gradient(G - call("mean", G)),
    "gradient-centred-by-row": _replace_gradient(G - call("row_mean", G)),
    "gradient-by-sign": _replace_gradient(call("sign", G)),
    "gradient-by-magnitude": _replace_gradient(call("abs", G)),
    "gradient-averaged-over-elements": _replace_gradient(G / call("size", G)),
}

"""Momentum, the size and the direction of the step, and changes of the gradient before the rule uses it."""

from collections.abc import Callable
from functools import partial

from gradstep.judge.algebra.expression import GRADIENT, ONE, STEP, ZERO, G, Node, call, mul, number
from gradstep.judge.algebra.program import Average, Program, divide_terms, only, require, sums_with_eps
from gradstep.judge.formula import Edit, RuleChange


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

"""Momentum, and the size and the direction of the step."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from gradstep.judge.algebra.anatomy import Average, NotFoundError, divide_terms, first_moments, setting, sums_with_eps
from gradstep.judge.algebra.expression import (
    GRADIENT,
    ONE,
    STEP,
    ZERO,
    G,
    Node,
    call,
    factors,
    linear,
    mul,
    split_power,
    substitute,
)
from gradstep.judge.algebra.program import Program
from gradstep.judge.catalogue.mistake import Mistake, held_by, rule_mistake
from gradstep.judge.formula import Edit

_sgd_mistake = partial(Mistake, read="Sutskever et al., ICML 2013, and torch.optim.SGD's notes")


def _find_buffer(program: Program) -> Average:
    """Return the momentum buffer: the one slot that is a sum of gradients.

    Raises:
        NotFoundError: there is none, or several.
    """
    buffers = [a for a in first_moments(program) if not a.is_average]
    if len(buffers) != 1:
        raise NotFoundError("no one momentum")
    return buffers[0]


def _move_lr_into_buffer(program: Program) -> Program:
    lr = setting(program, "lr")
    buffer = _find_buffer(program)
    along, rest = linear(program["step"], buffer.new)
    if along is ZERO:
        raise NotFoundError("no step along the buffer")
    changed = program.replace_part(buffer.name, buffer.plus(lr * buffer.new_weight * buffer.value))
    return changed.replace(step=divide_terms(along, lr) * buffer.new + rest)


def _reweight_gradient(make: Callable[[Program, Average], Node]) -> Edit:
    """Replace the weight of the gradient in the buffer by ``make`` of the buffer."""

    def edit(program: Program) -> Program:
        buffer = _find_buffer(program)
        return program.replace_part(buffer.name, buffer.plus(make(program, buffer) * buffer.value))

    return edit


def _dampened_weight(program: Program, buffer: Average) -> Node:
    if buffer.new_weight.op != "ite":
        raise NotFoundError("no first step of its own")
    return buffer.new_weight.args[2]  # type: ignore[no-any-return]


def _average_weight_later(_: Program, buffer: Average) -> Node:
    return call("ite", call("eq", STEP, ONE), ONE, 1 - buffer.old_weight)


def _nesterov(make: Callable[[Node, Node, Node], Node]) -> Edit:
    """Replace the direction of Nesterov's step by ``make`` of the gradient, the buffer and the momentum."""

    def edit(program: Program) -> Program:
        buffer, lr = _find_look_ahead(program)
        return program.replace(step=lr * make(GRADIENT, buffer.new, buffer.old_weight))

    return edit


def _find_look_ahead(program: Program) -> tuple[Average, Node]:
    buffer = _find_buffer(program)
    if buffer.value is not GRADIENT or linear(program["step"], GRADIENT)[0] is ZERO:
        raise NotFoundError("no look-ahead")
    return buffer, setting(program, "lr")


def _add_gradient_again(program: Program) -> Program:
    buffer = _find_buffer(program)
    if buffer.value is not GRADIENT or linear(program["step"], GRADIENT)[0] is not ZERO:
        raise NotFoundError("a look-ahead, or no momentum of the gradient")
    return program.replace(step=setting(program, "lr") * (GRADIENT + buffer.new))


def _divide_after_buffer(program: Program) -> Program:
    """Divide by the root after the momentum instead of before it."""
    buffer = _find_buffer(program)
    roots = {d.node for d in sums_with_eps(program)}
    quotients = [f for f in factors(buffer.value) if split_power(f)[0] in roots and split_power(f)[1] == -1]
    if not quotients:
        raise NotFoundError("no division before the momentum")
    value = mul(*(f for f in factors(buffer.value) if f not in quotients))
    changed = program.replace_part(buffer.name, buffer.plus(buffer.new_weight * value))
    return changed.replace(step=substitute(changed["step"], buffer.new, mul(buffer.new, *quotients)))


def _add_look_ahead(program: Program) -> Program:
    """Use NAdam's numerator in Adam: ``beta1 * m_hat + (1 - beta1) * grad / (1 - beta1**t)``."""
    moments = [a for a in first_moments(program) if a.is_average and a.value is GRADIENT]
    if len(moments) != 1:
        raise NotFoundError("no one average of the gradient")
    (m,) = moments
    along, rest = linear(program["step"], m.new)
    if along is ZERO or linear(program["step"], GRADIENT)[0] is not ZERO:
        raise NotFoundError("no step along the average alone")
    ahead = m.old_weight * m.new + m.new_weight * GRADIENT
    return program.replace(step=along * ahead + rest)


def _change_step(change: Callable[[Program, Node], Node]) -> Edit:
    return lambda program: program.replace(step=change(program, program["step"]))


def _negate_gradient(program: Program) -> Program:
    if not program.slots and program["G"].op != "add":
        raise NotFoundError("the same as a step uphill")
    return program.rewrite(lambda n: -n if n is G else n, "G")


def _sum_all_gradients(program: Program) -> Program:
    buffer = _find_buffer(program)
    return program.replace_part(buffer.name, buffer.old + buffer.new_weight * buffer.value)


MISTAKES = (
    rule_mistake(
        "ascent",
        "the update's sign flipped: it climbs",
        "`p + lr * ...`; a step goes against the gradient",
        _change_step(lambda program, step: -step),
    ),
    rule_mistake(
        "gradient-negated",
        "the gradient's sign flipped before anything else",
        "`-grad`, or `maximize` on where it should be off",
        _negate_gradient,
    ),
    rule_mistake(
        "lr-twice",
        "the learning rate multiplied in twice",
        "`lr` both in the update and where it is subtracted",
        _change_step(lambda program, step: setting(program, "lr") * step),
    ),
    rule_mistake(
        "lr-missing",
        "no learning rate in the step",
        "`p -= update`; it is `p -= lr * update`",
        _change_step(lambda program, step: divide_terms(step, setting(program, "lr"))),
    ),
    rule_mistake(
        "lr-over-root-of-t",
        "the learning rate divided by √t",
        "`lr / sqrt(t)`: a schedule is the caller's",
        _change_step(lambda program, step: step / STEP**0.5),
    ),
    rule_mistake(
        "lr-over-t",
        "the learning rate divided by t",
        "`lr / t`: a schedule is the caller's",
        _change_step(lambda program, step: step / STEP),
    ),
    rule_mistake(
        "step-by-sign",
        "the sign of the update instead of the update",
        "`sign(...)` around the update",
        _change_step(lambda program, step: setting(program, "lr") * call("sign", step)),
        when=lambda program: not any(n.op == "sign" for n in program.nodes("step")),
    ),
    _sgd_mistake(
        "lr-in-buffer",
        "the learning rate inside the momentum buffer",
        "`v = momentum * v + lr * grad; p -= v`: the same until lr changes; torch has lr outside",
        _move_lr_into_buffer,
        conventions=held_by("paper", "keras", "optax", rules=("SGD", "RMSprop")),
    ),
    _sgd_mistake(
        "first-buffer-damped",
        "dampening in the first momentum buffer too",
        "`momentum * buf + (1 - dampening) * grad` at the first step; torch starts with the gradient itself",
        _reweight_gradient(_dampened_weight),
    ),
    _sgd_mistake(
        "momentum-averaged",
        "the momentum as an average: the gradient multiplied by (1 − momentum)",
        "`momentum * buf + (1 - momentum) * grad`; it is `momentum * buf + grad`",
        _reweight_gradient(lambda program, buffer: 1 - buffer.old_weight),
    ),
    _sgd_mistake(
        "momentum-averaged-after-first",
        "the momentum as an average that starts at the first gradient",
        "`(1 - momentum) * grad` from the second step on",
        _reweight_gradient(_average_weight_later),
    ),
    _sgd_mistake(
        "momentum-undecayed",
        "the momentum buffer never decayed: a sum of all gradients",
        "`buf = buf + grad`; it is `momentum * buf + grad`",
        _sum_all_gradients,
    ),
    _sgd_mistake(
        "nesterov-undamped",
        "Nesterov's step without the momentum factor",
        "`grad + buf`; it is `grad + momentum * buf`",
        _nesterov(lambda g, b, mu: g + b),
    ),
    _sgd_mistake(
        "nesterov-only-buffer",
        "Nesterov's step without the gradient",
        "`momentum * buf`; it is `grad + momentum * buf`",
        _nesterov(lambda g, b, mu: mu * b),
    ),
    _sgd_mistake(
        "momentum-twice",
        "the gradient added to the buffer in the step",
        "`p -= lr * (grad + buf)` without Nesterov",
        _add_gradient_again,
    ),
    Mistake(
        "momentum-of-gradient",
        "the learning rate and the root outside the momentum",
        "`buf = momentum * buf + grad; p -= lr * buf / sqrt(v)`; the division comes first",
        _divide_after_buffer,
        read="torch.optim.RMSprop",
    ),
    Mistake(
        "look-ahead-added",
        "Nesterov's look-ahead, which is NAdam's",
        "`beta1 * m_hat + (1 - beta1) * grad`; the numerator is `m_hat`",
        _add_look_ahead,
        read="Dozat, ICLR 2016 workshop, Algorithm 2",
    ),
)

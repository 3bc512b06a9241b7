"""Momentum, the size and the direction of the step, and changes of the gradient before the rule uses it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from gradstep.judge.algebra.anatomy import Average, divide_terms, first_moments, only, require, setting, sums_with_eps
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
    number,
    split_power,
    substitute,
)
from gradstep.judge.algebra.program import Program
from gradstep.judge.catalogue.mistake import Mistake, held_by, rule_mistake
from gradstep.judge.formula import Edit

_CLIPPING = "clipping is the caller's, before step(); torch.nn.utils.clip_grad_norm_ and clip_grad_value_"
_sgd_mistake = partial(Mistake, read="Sutskever et al., ICML 2013, and torch.optim.SGD's notes")


def _find_buffer(program: Program) -> Average:
    """Return the momentum buffer: the one slot that is a sum of gradients."""
    return only((a for a in first_moments(program) if not a.is_average), "momentum buffer")


def _move_lr_into_buffer(program: Program) -> Program:
    lr = setting(program, "lr")
    buffer = _find_buffer(program)
    along, rest = linear(program["step"], buffer.new)
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
    looks_ahead = linear(program["step"], GRADIENT)[0] is not ZERO
    require(buffer.value is GRADIENT and looks_ahead == look_ahead, "such momentum of the gradient")
    return program.replace(step=setting(program, "lr") * make(buffer))


def _divide_after_buffer(program: Program) -> Program:
    """Divide by the root after the momentum instead of before it."""
    buffer = _find_buffer(program)
    roots = {d.node for d in sums_with_eps(program)}
    quotients = [f for f in factors(buffer.value) if split_power(f)[0] in roots and split_power(f)[1] == -1]
    require(quotients, "division before the momentum")
    value = mul(*(f for f in factors(buffer.value) if f not in quotients))
    changed = program.replace_part(buffer.name, buffer.plus(buffer.new_weight * value))
    return changed.replace(step=substitute(changed["step"], buffer.new, mul(buffer.new, *quotients)))


def _add_look_ahead(program: Program) -> Program:
    """Use NAdam's numerator in Adam: ``beta1 * m_hat + (1 - beta1) * grad / (1 - beta1**t)``."""
    m = only((a for a in first_moments(program) if a.is_average and a.value is GRADIENT), "average of the gradient")
    along, rest = linear(program["step"], m.new)
    require(along is not ZERO and linear(program["step"], GRADIENT)[0] is ZERO, "step along the average alone")
    ahead = m.old_weight * m.new + m.new_weight * GRADIENT
    return program.replace(step=along * ahead + rest)


def _change_step(change: Callable[[Program, Node], Node]) -> Edit:
    return lambda program: program.replace(step=change(program, program["step"]))


def _negate_gradient(program: Program) -> Program:
    require(program.slots or program["G"].op == "add", "difference to a step uphill")
    return program.rewrite(lambda n: -n if n is G else n, "G")


def _replace_gradient(make: Callable[[Node], Node]) -> Edit:
    new = make(G)
    return lambda program: program.rewrite(lambda n: new if n is G else n)


def _clamp(g: Node, limit: float) -> Node:
    low = call("maximum", g, number(-limit))
    return -call("maximum", -low, number(-limit))


def _norm(g: Node) -> Node:
    return call("sum", g**2) ** 0.5


def _gradient_mistake(name: str, sentence: str, look_for: str, make: Callable[[Node], Node]) -> Mistake:
    return Mistake(name, sentence, look_for, _replace_gradient(make), read=_CLIPPING)


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
        partial(_change_buffer, _dampen_first),
    ),
    _sgd_mistake(
        "momentum-averaged",
        "the momentum as an average: the gradient multiplied by (1 − momentum)",
        "`momentum * buf + (1 - momentum) * grad`; it is `momentum * buf + grad`",
        partial(_change_buffer, lambda b: b.plus((1 - b.old_weight) * b.value)),
    ),
    _sgd_mistake(
        "momentum-averaged-after-first",
        "the momentum as an average that starts at the first gradient",
        "`(1 - momentum) * grad` from the second step on",
        partial(_change_buffer, lambda b: b.plus(call("ite", call("eq", STEP, ONE), ONE, 1 - b.old_weight) * b.value)),
    ),
    _sgd_mistake(
        "momentum-undecayed",
        "the momentum buffer never decayed: a sum of all gradients",
        "`buf = buf + grad`; it is `momentum * buf + grad`",
        partial(_change_buffer, lambda b: b.old + b.new_weight * b.value),
    ),
    _sgd_mistake(
        "nesterov-undamped",
        "Nesterov's step without the momentum factor",
        "`grad + buf`; it is `grad + momentum * buf`",
        partial(_change_direction, True, lambda b: GRADIENT + b.new),
    ),
    _sgd_mistake(
        "nesterov-only-buffer",
        "Nesterov's step without the gradient",
        "`momentum * buf`; it is `grad + momentum * buf`",
        partial(_change_direction, True, lambda b: b.old_weight * b.new),
    ),
    _sgd_mistake(
        "momentum-twice",
        "the gradient added to the buffer in the step",
        "`p -= lr * (grad + buf)` without Nesterov",
        partial(_change_direction, False, lambda b: GRADIENT + b.new),
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
    *(
        _gradient_mistake(
            f"gradient-clamped-at-{limit:g}",
            f"each element of the gradient clamped to ±{limit:g}",
            f"`grad.clamp(-{limit:g}, {limit:g})` or `np.clip` inside the optimizer",
            partial(_clamp, limit=limit),
        )
        for limit in (1.0, 0.5, 5.0, 10.0, 0.1)
    ),
    _gradient_mistake(
        "gradient-clipped-by-norm",
        "each tensor's gradient clipped to the norm 1",
        "`grad / max(1, norm)` inside the optimizer",
        # As torch's clip_grad_norm_, but for each tensor by itself.
        lambda g: g / call("maximum", _norm(g), number(1)),
    ),
    _gradient_mistake(
        "gradient-normalised",
        "each tensor's gradient divided by its norm",
        "`grad / grad.norm()` inside the optimizer",
        lambda g: g / _norm(g),
    ),
    _gradient_mistake(
        "gradient-centred",
        "each tensor's gradient with its mean subtracted",
        "`grad - grad.mean()` inside the optimizer",
        lambda g: g - call("mean", g),
    ),
    _gradient_mistake(
        "gradient-centred-by-row",
        "the gradient with each row's mean subtracted: gradient centralisation",
        "`grad - grad.mean(dim=..., keepdim=True)` inside the optimizer",
        lambda g: g - call("row_mean", g),
    ),
    _gradient_mistake(
        "gradient-by-sign",
        "the gradient's sign instead of the gradient",
        "`grad.sign()` before the averages",
        lambda g: call("sign", g),
    ),
    _gradient_mistake(
        "gradient-by-magnitude",
        "the gradient's magnitude instead of the gradient",
        "`abs(grad)` before the averages",
        lambda g: call("abs", g),
    ),
    _gradient_mistake(
        "gradient-averaged-over-elements",
        "each tensor's gradient divided by the number of its elements",
        "`grad / grad.numel()`: the loss has its mean already",
        lambda g: g / call("size", g),
    ),
)

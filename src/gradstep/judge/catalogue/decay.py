"""Weight decay: in the wrong place, of the wrong size, at the wrong time."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from gradstep.judge.algebra.anatomy import (
    Average,
    correction_of,
    coupled_decay,
    decoupled_decay,
    divide_terms,
    first_moments,
    only,
    replace_denominators,
    require,
    second_moments,
    setting,
    step_size,
)
from gradstep.judge.algebra.expression import (
    GRADIENT,
    KEEP,
    MOVE,
    ONE,
    ZERO,
    G,
    Node,
    P,
    call,
    complement,
    factors,
    linear,
    mul,
    split_power,
    substitute,
)
from gradstep.judge.algebra.program import Program
from gradstep.judge.catalogue.mistake import ADAMW_PAPER, Mistake, adamw_mistake, any_of, habit, held_by, rule_mistake
from gradstep.judge.formula import Edit


def _change_decoupled(change: Callable[[Program, Node], Node], program: Program) -> Program:
    """Replace the factor of the decay on the weight by ``change`` of it."""
    return program.replace(keep=1 - change(program, decoupled_decay(program)))


def _change_coupled(change: Callable[[Program, Node], Node], program: Program) -> Program:
    """Replace the factor of the decay in the gradient by ``change`` of it."""
    return program.replace(G=G + change(program, coupled_decay(program)) * P)


def _scale(factor: float) -> Edit:
    return any_of(*(partial(change, lambda p, d: factor * d) for change in (_change_decoupled, _change_coupled)))


def _move_to_gradient(program: Program) -> Program:
    decoupled_decay(program)
    return program.replace(G=program["G"] + setting(program, "weight_decay") * P, keep=ONE)


def _move_to_weight(program: Program) -> Program:
    decay = setting(program, "lr") * coupled_decay(program)
    return program.replace(G=G, keep=program["keep"] - decay)


def _decay_twice(program: Program) -> Program:
    decay, lr = setting(program, "weight_decay"), setting(program, "lr")
    return program.replace(G=G + decay * P, keep=1 - lr * decay)


def _decay_after(program: Program) -> Program:
    require(program["keep"] is not ONE, "decay on the weight")
    return program.replace(p=KEEP * (P - MOVE))


def _multiply_by_step_size(program: Program) -> Program:
    """Multiply the decay by the step size, as in ``step_size * (update + weight_decay * p)``."""
    size = step_size(program)
    require(size is not setting(program, "lr"), "other factor of the step")
    return _change_decoupled(lambda p, d: setting(p, "weight_decay") * size, program)


def _multiply_by_corrections(program: Program) -> Program:
    corrections = correction_of(program, "v").node ** 0.5 / correction_of(program, "m").node
    return _change_decoupled(lambda p, d: d * corrections, program)


def _skip_at_zero(program: Program) -> Program:
    moving = call("ne", GRADIENT if program["G"] is G else G, ZERO)
    changed = program
    if program["keep"] is not ONE:
        changed = changed.replace(p=substitute(program["p"], KEEP * P, call("where", moving, KEEP * P, P)))
    if program["G"] is not G:
        changed = changed.replace(G=call("where", call("ne", G, ZERO), program["G"], G))
    return changed


def _decay_along(direction: Node, program: Program) -> Program:
    """Multiply the decay by ``direction`` instead of the weight."""
    if program["keep"] is not ONE:
        return program.replace(keep=ONE, p=program["p"] - decoupled_decay(program) * direction)
    return program.replace(G=G + coupled_decay(program) * direction)


def _decay_before_and_after(program: Program) -> Program:
    """Decay the weight before the update and again after it."""
    require(program["keep"] is not ONE, "decay on the weight")
    return program.replace(p=KEEP * program["p"])


def _move_to_numerator(program: Program) -> Program:
    """Add the decay to the average gradient, so that it is divided by the root too."""
    new = only(first_moments(program), "average").new
    decay = setting(program, "weight_decay") * P
    along, rest = linear(program["step"], new)
    require(second_moments(program) and along is not ZERO, "step along an average over a root")
    step = along * new + along * _undo_corrections(along) * decay + rest
    return program.replace(G=G, keep=ONE, step=step)


def _move_to_denominator(program: Program) -> Program:
    decay = setting(program, "weight_decay") * P
    decoupled_decay(program)
    return replace_denominators(program, lambda d: d.node + decay).replace(keep=ONE)


def _undo_corrections(along: Node) -> Node:
    """Return the factor that undoes the corrections of the average, which the decay does not have."""
    own = [f for f in factors(along) if f.scalar and complement(split_power(f)[0]) is not None]
    return mul(*(1 / f for f in own))


def _in_one_moment(own: Callable[[Program], tuple[Average, ...]], program: Program) -> Program:
    """Add the decay to the gradient of one moment only."""
    require(first_moments(program) and second_moments(program), "two averages")
    whole = G + setting(program, "weight_decay") * P
    parts = {a.name: substitute(program[a.name], GRADIENT, whole) for a in own(program)}
    others = {n: substitute(e, GRADIENT, G) for n, e in program.parts.items() if n not in parts and n != "G"}
    return program.with_parts({**others, **parts, "G": G, "keep": ONE})


MISTAKES = (
    adamw_mistake(
        "decay-in-gradient",
        "the decay added to the gradient",
        "`grad + weight_decay * p`; the decay acts on the weight: `p *= 1 - lr * weight_decay`",
        _move_to_gradient,
        when=decoupled_decay,
    ),
    Mistake(
        "decay-on-weight",
        "the decay on the weight itself",
        "`p *= 1 - lr * weight_decay`; this rule adds it to the gradient: `grad + weight_decay * p`",
        _move_to_weight,
        when=coupled_decay,
        conventions=(
            *held_by("optax", "textbook", rules=("NAdam", "RAdam")),
            *held_by("bitsandbytes", "textbook", rules=("Adam",)),
        ),
        read=ADAMW_PAPER + ", which compares the two",
    ),
    adamw_mistake(
        "decay-after",
        "the decay after the update",
        "the update first and `p *= 1 - lr * weight_decay` last; torch and the paper decay the old weight",
        _decay_after,
        conventions=(
            *held_by("tinytorch", "bitsandbytes", "textbook", rules=("AdamW",)),
            *held_by("textbook", rules=("Adam", "NAdam", "RAdam")),
        ),
    ),
    Mistake(
        "decay-without-lr",
        "the decay not multiplied by the learning rate",
        "`p *= 1 - weight_decay`; torch multiplies by `1 - lr * weight_decay`",
        # As where a schedule's multiplier takes the place of lr.
        partial(_change_decoupled, lambda p, d: divide_terms(d, setting(p, "lr"))),
        conventions=held_by("paper", rules=("AdamW",)),
        read=ADAMW_PAPER + ", where λ stands beside α",
    ),
    adamw_mistake(
        "decay-lr-twice",
        "the decay multiplied by the learning rate twice",
        "`lr * (update + lr * weight_decay * p)`",
        partial(_change_decoupled, lambda p, d: setting(p, "lr") * d),
    ),
    rule_mistake(
        "decay-with-lr",
        "the decay in the gradient multiplied by the learning rate",
        "`grad + lr * weight_decay * p`; the update multiplies by lr already",
        partial(_change_coupled, lambda p, d: setting(p, "lr") * d),
    ),
    adamw_mistake(
        "decay-by-step-size",
        "the decay multiplied by the whole step size instead of lr",
        "`step_size * (update + weight_decay * p)`, where step_size holds more than lr, such as a bias correction; "
        "the decay is `lr * weight_decay * p`",
        _multiply_by_step_size,
        conventions=held_by("huggingface", rules=("Adafactor",)),
    ),
    adamw_mistake(
        "decay-by-both-corrections",
        "the decay multiplied by both bias corrections, √(1 − β₂ᵗ) / (1 − β₁ᵗ)",
        "`step_size = lr * sqrt(1 - beta2**t) / (1 - beta1**t)` beside `weight_decay * p`; the decay is "
        "`lr * weight_decay * p`",
        _multiply_by_corrections,
    ),
    adamw_mistake(
        "decay-in-numerator",
        "the decay beside the average gradient, divided by the root of v",
        "`(m_hat + weight_decay * p) / (sqrt(v_hat) + eps)`; the decay is not divided",
        _move_to_numerator,
    ),
    adamw_mistake(
        "decay-in-denominator",
        "the decay inside the denominator",
        "`m / (sqrt(v) + eps + weight_decay * p)`: a parenthesis is in the wrong place",
        _move_to_denominator,
    ),
    adamw_mistake(
        "decay-in-m-only",
        "the decay added to the gradient of m alone",
        "`grad + weight_decay * p` in one of the two averages",
        partial(_in_one_moment, first_moments),
    ),
    adamw_mistake(
        "decay-in-v-only",
        "the decay added to the gradient of v alone",
        "`grad + weight_decay * p` in one of the two averages",
        partial(_in_one_moment, second_moments),
    ),
    adamw_mistake(
        "decay-sign",
        "the decay's sign flipped: weights grow",
        "`p *= 1 + lr * weight_decay` or `grad - weight_decay * p`",
        _scale(-1),
    ),
    rule_mistake(
        "decay-doubled",
        "the decay doubled: the gradient of λ‖p‖² instead of ½λ‖p‖²",
        "`2 * weight_decay * p`",
        _scale(2),
    ),
    rule_mistake(
        "decay-halved",
        "the decay halved",
        "`0.5 * weight_decay * p`: ½ belongs to ½λ‖p‖², whose gradient is λp",
        _scale(0.5),
    ),
    adamw_mistake(
        "decay-twice",
        "the decay both in the gradient and on the weight",
        "both `grad + weight_decay * p` and `p *= 1 - lr * weight_decay`: keep one",
        _decay_twice,
    ),
    adamw_mistake(
        "decay-without-weight",
        "the decay not multiplied by the weight",
        "`lr * weight_decay` subtracted; it is `lr * weight_decay * p`",
        partial(_decay_along, ONE),
    ),
    adamw_mistake(
        "decay-of-gradient",
        "the decay multiplied by the gradient instead of the weight",
        "`weight_decay * grad`; it is `weight_decay * p`",
        partial(_decay_along, G),
    ),
    adamw_mistake(
        "decay-before-and-after",
        "the decay both before and after the update",
        "`p *= 1 - lr * weight_decay` in two places: keep the first",
        _decay_before_and_after,
    ),
    adamw_mistake(
        "decay-of-sign",
        "the decay along the weight's sign: L1 instead of L2",
        "`weight_decay * sign(p)`; it is `weight_decay * p`",
        partial(_decay_along, call("sign", P)),
    ),
    adamw_mistake(
        "decay-skipped-at-zero",
        "the decay skipped where the gradient is zero",
        "a mask such as `grad != 0` around the decay",
        _skip_at_zero,
    ),
    Mistake(
        "skips-zero-gradients",
        "parameters whose gradient is zero left out of the step",
        "`if grad.abs().sum() == 0: continue`: decay and momentum go on; only a gradient of None is left out",
        habits=habit(skips_zero=True),
        read="torch.optim: a gradient of None and one of zero are different things",
    ),
)

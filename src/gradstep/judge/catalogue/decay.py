"""Weight decay: where it goes, by how much, and when."""

from __future__ import annotations

from collections.abc import Callable

from gradstep.judge.algebra.anatomy import (
    GRADIENT,
    KEEP,
    MOVE,
    NotFoundError,
    correction_of,
    coupled,
    decoupled,
    first,
    of_denominators,
    raised,
    second,
    setting,
    step_size,
    without,
)
from gradstep.judge.algebra.expression import (
    ONE,
    TWO,
    ZERO,
    G,
    Node,
    P,
    add,
    based,
    call,
    complement,
    factors,
    inverse,
    linear,
    minus,
    mul,
    number,
)
from gradstep.judge.algebra.expression import substitute as put
from gradstep.judge.algebra.program import Program
from gradstep.judge.catalogue.mistake import ADAMW_PAPER, RULE, Mistake, by, habit, if_any
from gradstep.judge.formula import Edit


def _on_weight(change: Callable[[Program, Node], Node]) -> Edit:
    """The decay on the weight by another amount."""

    def edit(program: Program) -> Program:
        return program.setting(keep=minus(ONE, change(program, decoupled(program))))

    return edit


def _in_gradient(change: Callable[[Program, Node], Node]) -> Edit:
    """The decay in the gradient by another amount."""

    def edit(program: Program) -> Program:
        return program.setting(G=add(G, mul(change(program, coupled(program)), P)))

    return edit


def _scaled(factor: Node) -> Edit:
    def edit(program: Program) -> Program:
        return if_any(_on_weight(lambda p, d: mul(factor, d)), _in_gradient(lambda p, d: mul(factor, d)))(program)

    return edit


def _to_gradient(program: Program) -> Program:
    decoupled(program)
    return program.setting(G=add(program["G"], mul(setting(program, "weight_decay"), P)), keep=ONE)


def _to_weight(program: Program) -> Program:
    decay = mul(setting(program, "lr"), coupled(program))
    return program.setting(G=G, keep=minus(program["keep"], decay))


def _twice(program: Program) -> Program:
    decay, lr = setting(program, "weight_decay"), setting(program, "lr")
    return program.setting(G=add(G, mul(decay, P)), keep=minus(ONE, mul(lr, decay)))


def _after(program: Program) -> Program:
    if program["keep"] is ONE:
        raise NotFoundError("no decay on the weight")
    return program.setting(p=mul(KEEP, minus(P, MOVE)))


def _by_step_size(program: Program) -> Program:
    """The decay beside the update inside one product: ``step_size * (update + weight_decay * p)``."""
    size = step_size(program)
    if size is setting(program, "lr"):
        raise NotFoundError("the step has no other factor")
    return _on_weight(lambda p, d: mul(setting(p, "weight_decay"), size))(program)


def _by_both_corrections(program: Program) -> Program:
    both = mul(raised(correction_of(program, "v").node, 0.5), inverse(correction_of(program, "m").node))
    return _on_weight(lambda p, d: mul(d, both))(program)


def _skipped_at_zero(program: Program) -> Program:
    moving = call("ne", GRADIENT if program["G"] is G else G, ZERO)
    changed = program
    if program["keep"] is not ONE:
        changed = changed.setting(p=put(program["p"], mul(KEEP, P), call("where", moving, mul(KEEP, P), P)))
    if program["G"] is not G:
        changed = changed.setting(G=call("where", call("ne", G, ZERO), program["G"], G))
    return changed


def _without_weight(program: Program) -> Program:
    """``lr * weight_decay`` subtracted, and not ``lr * weight_decay * p``."""
    if program["keep"] is not ONE:
        taken = decoupled(program)
        return program.setting(keep=ONE, p=minus(program["p"], taken))
    return program.setting(G=add(G, coupled(program)))


def _of_gradient(program: Program) -> Program:
    """``weight_decay * grad`` where the weight belongs."""
    if program["keep"] is not ONE:
        return program.setting(keep=ONE, p=minus(program["p"], mul(decoupled(program), G)))
    return program.setting(G=add(G, mul(coupled(program), G)))


def _both_ends(program: Program) -> Program:
    """The weight decayed before the update and once more after it."""
    if program["keep"] is ONE:
        raise NotFoundError("no decay on the weight")
    return program.setting(p=mul(KEEP, program["p"]))


def _of_sign(program: Program) -> Program:
    towards = call("sign", P)
    if program["keep"] is not ONE:
        return program.setting(keep=ONE, p=minus(program["p"], mul(decoupled(program), towards)))
    return program.setting(G=add(G, mul(coupled(program), towards)))


def _in_numerator(program: Program) -> Program:
    """The decay beside the average gradient, so that it is divided by the root too."""
    moments = first(program)
    if len(moments) != 1 or not second(program):
        raise NotFoundError("no average over a root")
    new = moments[0].new
    decay = mul(setting(program, "weight_decay"), P)
    along, rest = linear(program["step"], new)
    if along is ZERO:
        raise NotFoundError("no step along the average")
    corrected = _corrections_of(along)
    move = add(mul(along, new), mul(along, corrected, decay), rest)
    return program.setting(G=G, keep=ONE, step=move)


def _in_denominator(program: Program) -> Program:
    decay = mul(setting(program, "weight_decay"), P)
    decoupled(program)
    return of_denominators(program, lambda d: add(d.node, decay)).setting(keep=ONE)


def _corrections_of(along: Node) -> Node:
    """What undoes the corrections of the average, which are not the decay's."""
    own = [f for f in factors(along) if f.scalar and complement(based(f)[0]) is not None]
    return mul(*(inverse(f) for f in own))


def _of_moment(which: str) -> Edit:
    """The decay in the gradient of one average only."""

    def edit(program: Program) -> Program:
        decay = setting(program, "weight_decay")
        whole = add(G, mul(decay, P))
        averages = first(program) if which == "m" else second(program)
        if not first(program) or not second(program):
            raise NotFoundError("no two averages")
        parts = {a.name: put(program[a.name], GRADIENT, whole) for a in averages}
        others = {n: put(e, GRADIENT, G) for n, e in program.parts.items() if n not in parts and n != "G"}
        return program.with_parts({**others, **parts, "G": G, "keep": ONE})

    return edit


def _relative_to_lr(program: Program) -> Program:
    """The decay divided by lr, as where a schedule's multiplier stands in its place."""
    return _on_weight(lambda p, d: without(d, setting(p, "lr")))(program)


MISTAKES = (
    Mistake(
        "decay-in-gradient",
        "the decay added to the gradient",
        "`grad + weight_decay * p`; the decay acts on the weight: `p *= 1 - lr * weight_decay`",
        ADAMW_PAPER,
        _to_gradient,
        when=decoupled,
    ),
    Mistake(
        "decay-on-weight",
        "the decay on the weight itself",
        "`p *= 1 - lr * weight_decay`; this rule adds it to the gradient: `grad + weight_decay * p`",
        ADAMW_PAPER + ", which compares the two",
        _to_weight,
        when=coupled,
        conventions=(*by("NAdam", "RAdam", of=("optax", "textbook")), *by("Adam", of=("bitsandbytes", "textbook"))),
    ),
    Mistake(
        "decay-after",
        "the decay after the update",
        "the update first and `p *= 1 - lr * weight_decay` last; torch and the paper decay the old weight",
        ADAMW_PAPER,
        _after,
        conventions=(
            *by("AdamW", of=("tinytorch", "bitsandbytes", "textbook")),
            *by("Adam", "NAdam", "RAdam", of=("textbook",)),
        ),
    ),
    Mistake(
        "decay-without-lr",
        "the decay not multiplied by the learning rate",
        "`p *= 1 - weight_decay`; torch multiplies by `1 - lr * weight_decay`",
        ADAMW_PAPER + ", where λ stands beside α",
        _relative_to_lr,
        conventions=by("AdamW", of=("paper",)),
    ),
    Mistake(
        "decay-lr-twice",
        "the decay multiplied by the learning rate twice",
        "`lr * (update + lr * weight_decay * p)`",
        ADAMW_PAPER,
        _on_weight(lambda p, d: mul(setting(p, "lr"), d)),
    ),
    Mistake(
        "decay-with-lr",
        "the decay in the gradient multiplied by the learning rate",
        "`grad + lr * weight_decay * p`; the update multiplies by lr already",
        RULE,
        _in_gradient(lambda p, d: mul(setting(p, "lr"), d)),
    ),
    Mistake(
        "decay-by-step-size",
        "the decay multiplied by the whole step size instead of lr",
        "`step_size * (update + weight_decay * p)`, where step_size holds more than lr, such as a bias correction; "
        "the decay is `lr * weight_decay * p`",
        ADAMW_PAPER,
        _by_step_size,
        conventions=by("Adafactor", of=("huggingface",)),
    ),
    Mistake(
        "decay-by-both-corrections",
        "the decay multiplied by both bias corrections, √(1 − β₂ᵗ) / (1 − β₁ᵗ)",
        "`step_size = lr * sqrt(1 - beta2**t) / (1 - beta1**t)` beside `weight_decay * p`; the decay is "
        "`lr * weight_decay * p`",
        ADAMW_PAPER,
        _by_both_corrections,
    ),
    Mistake(
        "decay-in-numerator",
        "the decay beside the average gradient, divided by the root of v",
        "`(m_hat + weight_decay * p) / (sqrt(v_hat) + eps)`; the decay is not divided",
        ADAMW_PAPER,
        _in_numerator,
    ),
    Mistake(
        "decay-in-denominator",
        "the decay inside the denominator",
        "`m / (sqrt(v) + eps + weight_decay * p)`: a parenthesis is in the wrong place",
        ADAMW_PAPER,
        _in_denominator,
    ),
    Mistake(
        "decay-in-m-only",
        "the decay added to the gradient of m alone",
        "`grad + weight_decay * p` in one of the two averages",
        ADAMW_PAPER,
        _of_moment("m"),
    ),
    Mistake(
        "decay-in-v-only",
        "the decay added to the gradient of v alone",
        "`grad + weight_decay * p` in one of the two averages",
        ADAMW_PAPER,
        _of_moment("v"),
    ),
    Mistake(
        "decay-sign",
        "the decay's sign flipped: weights grow",
        "`p *= 1 + lr * weight_decay` or `grad - weight_decay * p`",
        ADAMW_PAPER,
        _scaled(number(-1)),
    ),
    Mistake(
        "decay-doubled",
        "the decay doubled: the gradient of λ‖p‖² instead of ½λ‖p‖²",
        "`2 * weight_decay * p`",
        RULE,
        _scaled(TWO),
    ),
    Mistake(
        "decay-halved",
        "the decay halved",
        "`0.5 * weight_decay * p`: ½ belongs to ½λ‖p‖², whose gradient is λp",
        RULE,
        _scaled(number(0.5)),
    ),
    Mistake(
        "decay-twice",
        "the decay both in the gradient and on the weight",
        "both `grad + weight_decay * p` and `p *= 1 - lr * weight_decay`: keep one",
        ADAMW_PAPER,
        _twice,
    ),
    Mistake(
        "decay-without-weight",
        "the decay not multiplied by the weight",
        "`lr * weight_decay` subtracted; it is `lr * weight_decay * p`",
        ADAMW_PAPER,
        _without_weight,
    ),
    Mistake(
        "decay-of-gradient",
        "the decay multiplied by the gradient instead of the weight",
        "`weight_decay * grad`; it is `weight_decay * p`",
        ADAMW_PAPER,
        _of_gradient,
    ),
    Mistake(
        "decay-before-and-after",
        "the decay both before and after the update",
        "`p *= 1 - lr * weight_decay` in two places: keep the first",
        ADAMW_PAPER,
        _both_ends,
    ),
    Mistake(
        "decay-of-sign",
        "the decay along the weight's sign: L1 instead of L2",
        "`weight_decay * sign(p)`; it is `weight_decay * p`",
        ADAMW_PAPER,
        _of_sign,
    ),
    Mistake(
        "decay-skipped-at-zero",
        "the decay skipped where the gradient is zero",
        "a mask such as `grad != 0` around the decay",
        ADAMW_PAPER,
        _skipped_at_zero,
    ),
    Mistake(
        "skips-zero-gradients",
        "parameters whose gradient is zero left out of the step",
        "`if grad.abs().sum() == 0: continue`: decay and momentum go on; only a gradient of None is left out",
        "torch.optim: a gradient of None and one of zero are different things",
        habits=habit(skips_zero=True),
    ),
)

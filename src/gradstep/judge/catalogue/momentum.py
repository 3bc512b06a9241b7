"""Momentum, the size of the step and its direction."""

from __future__ import annotations

from collections.abc import Callable

from gradstep.judge.algebra.anatomy import (
    GRADIENT,
    Average,
    NotFoundError,
    first,
    raised,
    setting,
    sums_with_eps,
    without,
)
from gradstep.judge.algebra.expression import (
    MINUS,
    ONE,
    STEP,
    ZERO,
    Node,
    add,
    based,
    call,
    factors,
    linear,
    minus,
    mul,
)
from gradstep.judge.algebra.expression import substitute as put
from gradstep.judge.algebra.program import Program
from gradstep.judge.catalogue.mistake import RULE, Mistake, by
from gradstep.judge.formula import Edit

_SGD = "Sutskever et al., ICML 2013, and torch.optim.SGD's notes"


def sums(program: Program) -> tuple[Average, ...]:
    """The one slot that adds up what is along the gradient: a momentum buffer.

    Raises:
        NotFoundError: there is none.
    """
    found = tuple(a for a in first(program) if not a.averaging)
    if len(found) != 1:
        raise NotFoundError("no one momentum")
    return found


def _lr_in_buffer(program: Program) -> Program:
    lr = setting(program, "lr")
    (buffer,) = sums(program)
    along, rest = linear(program["step"], buffer.new)
    if along is ZERO:
        raise NotFoundError("no step along the buffer")
    moved = program.replacing(buffer.name, add(mul(buffer.kept, buffer.old), mul(lr, buffer.rest, buffer.fresh)))
    return moved.setting(step=add(mul(without(along, lr), buffer.new), rest))


def _damped(make: Callable[[Program, Average], Node]) -> Edit:
    """Another weight of the gradient in the buffer."""

    def edit(program: Program) -> Program:
        (buffer,) = sums(program)
        return program.replacing(
            buffer.name, add(mul(buffer.kept, buffer.old), mul(make(program, buffer), buffer.fresh))
        )

    return edit


def _always_damped(program: Program, buffer: Average) -> Node:
    if buffer.rest.op != "ite":
        raise NotFoundError("no first step of its own")
    return buffer.rest.args[2]  # type: ignore[no-any-return]


def _averaged_later(program: Program, buffer: Average) -> Node:
    del program
    return call("ite", call("eq", STEP, ONE), ONE, minus(ONE, buffer.kept))


def _nesterov(make: Callable[[Node, Node, Node], Node]) -> Edit:
    """Another direction of Nesterov's step, of the gradient, the buffer and the momentum."""

    def edit(program: Program) -> Program:
        buffer, lr = _looking_ahead(program)
        return program.setting(step=mul(lr, make(GRADIENT, buffer.new, buffer.kept)))

    return edit


def _looking_ahead(program: Program) -> tuple[Average, Node]:
    (buffer,) = sums(program)
    if buffer.fresh is not GRADIENT or linear(program["step"], GRADIENT)[0] is ZERO:
        raise NotFoundError("no look-ahead")
    return buffer, setting(program, "lr")


def _gradient_again(program: Program) -> Program:
    (buffer,) = sums(program)
    if buffer.fresh is not GRADIENT or linear(program["step"], GRADIENT)[0] is not ZERO:
        raise NotFoundError("a look-ahead, or no momentum of the gradient")
    return program.setting(step=mul(setting(program, "lr"), add(GRADIENT, buffer.new)))


def _outside_buffer(program: Program) -> Program:
    """The division by the root after the momentum instead of before it."""
    (buffer,) = sums(program)
    roots = {d.node for d in sums_with_eps(program)}
    over = [f for f in factors(buffer.fresh) if based(f)[0] in roots and based(f)[1] == -1]
    if not over:
        raise NotFoundError("no division before the momentum")
    fresh = mul(*(f for f in factors(buffer.fresh) if f not in over))
    moved = program.replacing(buffer.name, add(mul(buffer.kept, buffer.old), mul(buffer.rest, fresh)))
    return moved.setting(step=put(moved["step"], buffer.new, mul(buffer.new, *over)))


def _look_ahead_added(program: Program) -> Program:
    """NAdam's numerator in Adam's place: ``beta1 * m_hat + (1 - beta1) * grad / (1 - beta1**t)``."""
    moments = [a for a in first(program) if a.averaging and a.fresh is GRADIENT]
    if len(moments) != 1:
        raise NotFoundError("no one average of the gradient")
    (m,) = moments
    along, rest = linear(program["step"], m.new)
    if along is ZERO or linear(program["step"], GRADIENT)[0] is not ZERO:
        raise NotFoundError("no step along the average alone")
    ahead = add(mul(m.kept, m.new), mul(m.rest, GRADIENT))
    return program.setting(step=add(mul(along, ahead), rest))


def _sized(change: Callable[[Program, Node], Node]) -> Edit:
    return lambda program: program.setting(step=change(program, program["step"]))


def _climbing_gradient(program: Program) -> Program:
    if not program.slots and program["G"].op != "add":
        raise NotFoundError("the same as a step uphill")
    return program.setting(G=put(program["G"], GRADIENT, GRADIENT)).rewriting(
        lambda n: mul(MINUS, n) if n.op == "g" else n, "G"
    )


def _undecayed_momentum(program: Program) -> Program:
    (buffer,) = sums(program)
    return program.replacing(buffer.name, add(buffer.old, mul(buffer.rest, buffer.fresh)))


MISTAKES = (
    Mistake(
        "ascent",
        "the update's sign flipped: it climbs",
        "`p + lr * ...`; a step goes against the gradient",
        RULE,
        _sized(lambda program, step: mul(MINUS, step)),
    ),
    Mistake(
        "gradient-negated",
        "the gradient's sign flipped before anything else",
        "`-grad`, or `maximize` on where it should be off",
        RULE,
        _climbing_gradient,
    ),
    Mistake(
        "lr-twice",
        "the learning rate multiplied in twice",
        "`lr` both in the update and where it is subtracted",
        RULE,
        _sized(lambda program, step: mul(setting(program, "lr"), step)),
    ),
    Mistake(
        "lr-missing",
        "no learning rate in the step",
        "`p -= update`; it is `p -= lr * update`",
        RULE,
        _sized(lambda program, step: without(step, setting(program, "lr"))),
    ),
    Mistake(
        "lr-over-root-of-t",
        "the learning rate divided by √t",
        "`lr / sqrt(t)`: a schedule is the caller's",
        RULE,
        _sized(lambda program, step: mul(raised(STEP, -0.5), step)),
    ),
    Mistake(
        "lr-over-t",
        "the learning rate divided by t",
        "`lr / t`: a schedule is the caller's",
        RULE,
        _sized(lambda program, step: mul(raised(STEP, -1), step)),
    ),
    Mistake(
        "step-by-sign",
        "the sign of the update instead of the update",
        "`sign(...)` around the update",
        RULE,
        _sized(lambda program, step: mul(setting(program, "lr"), call("sign", step))),
        when=lambda program: not any(n.op == "sign" for n in program.nodes("step")),
    ),
    Mistake(
        "lr-in-buffer",
        "the learning rate inside the momentum buffer",
        "`v = momentum * v + lr * grad; p -= v`: the same until lr changes; torch has lr outside",
        _SGD,
        _lr_in_buffer,
        conventions=by("SGD", "RMSprop", of=("paper", "keras", "optax")),
    ),
    Mistake(
        "first-buffer-damped",
        "dampening in the first momentum buffer too",
        "`momentum * buf + (1 - dampening) * grad` at the first step; torch starts with the gradient itself",
        _SGD,
        _damped(_always_damped),
    ),
    Mistake(
        "momentum-averaged",
        "the momentum as an average: the gradient multiplied by (1 − momentum)",
        "`momentum * buf + (1 - momentum) * grad`; it is `momentum * buf + grad`",
        _SGD,
        _damped(lambda program, buffer: minus(ONE, buffer.kept)),
    ),
    Mistake(
        "momentum-averaged-after-first",
        "the momentum as an average that starts at the first gradient",
        "`(1 - momentum) * grad` from the second step on",
        _SGD,
        _damped(_averaged_later),
    ),
    Mistake(
        "momentum-undecayed",
        "the momentum buffer never decayed: a sum of all gradients",
        "`buf = buf + grad`; it is `momentum * buf + grad`",
        _SGD,
        _undecayed_momentum,
    ),
    Mistake(
        "nesterov-undamped",
        "Nesterov's step without the momentum factor",
        "`grad + buf`; it is `grad + momentum * buf`",
        _SGD,
        _nesterov(lambda g, b, mu: add(g, b)),
    ),
    Mistake(
        "nesterov-only-buffer",
        "Nesterov's step without the gradient",
        "`momentum * buf`; it is `grad + momentum * buf`",
        _SGD,
        _nesterov(lambda g, b, mu: mul(mu, b)),
    ),
    Mistake(
        "momentum-twice",
        "the gradient added to the buffer in the step",
        "`p -= lr * (grad + buf)` without Nesterov",
        _SGD,
        _gradient_again,
    ),
    Mistake(
        "momentum-of-gradient",
        "the learning rate and the root outside the momentum",
        "`buf = momentum * buf + grad; p -= lr * buf / sqrt(v)`; the division comes first",
        "torch.optim.RMSprop",
        _outside_buffer,
    ),
    Mistake(
        "look-ahead-added",
        "Nesterov's look-ahead, which is NAdam's",
        "`beta1 * m_hat + (1 - beta1) * grad`; the numerator is `m_hat`",
        "Dozat, ICLR 2016 workshop, Algorithm 2",
        _look_ahead_added,
    ),
)

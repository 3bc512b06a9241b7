"""Mistakes that only some formulas invite: maxima, signs, sums, factors."""

from __future__ import annotations

from collections.abc import Callable

from gradstep.judge.algebra.anatomy import (
    GRADIENT,
    NotFoundError,
    averages,
    first,
    leaf_of,
    raised,
    second,
    setting,
    settings,
)
from gradstep.judge.algebra.expression import (
    MINUS,
    ONE,
    STEP,
    Node,
    P,
    add,
    based,
    call,
    contains,
    factors,
    linear,
    minus,
    mul,
    number,
    square,
    walk,
)
from gradstep.judge.algebra.expression import substitute as put
from gradstep.judge.algebra.program import Program
from gradstep.judge.catalogue.mistake import Mistake, by, of_nodes
from gradstep.judge.formula import Edit

_LION = "Chen et al., arXiv:2302.06675, Algorithm 2"
_ADAFACTOR = "Shazeer and Stern, arXiv:1804.04235, Algorithms 4 to 6"
_ADADELTA = "Zeiler, arXiv:1212.5701, Algorithm 1"
_ADAMAX = "Kingma and Ba, arXiv:1412.6980, Algorithm 2"


# -- Adamax, Lion -----------------------------------------------------------------------------------------------------


def _in_peak(change: Callable[[Node], Node]) -> Edit:
    """An edit of ``max(beta2 * u, abs(g))``."""

    def edit(program: Program) -> Program:
        for name in program.slots:
            old, _ = leaf_of(program, name)
            if program[name].op == "maximum" and linear(program[name].args[0], old)[0].op == "setting":
                return program.replacing(name, change(program[name]))
        raise NotFoundError("no running maximum that forgets")

    return edit


def _in_sign(make: Callable[[Program, Node], Node]) -> Edit:
    """Another direction than ``sign(x)``."""

    def change(program: Program, node: Node) -> Node:
        return make(program, node.args[0]) if node.op == "sign" and contains_old(node) else node

    return of_nodes(change, "step")


def contains_old(node: Node) -> bool:
    """Whether the state before the step is in it."""
    return any(n.op == "old" for n in walk(node))


def _one_average(program: Program) -> tuple[Node, Node]:
    found = averages(program)
    if len(found) != 1:
        raise NotFoundError("no one average")
    return found[0].old, found[0].new


def _one_beta(program: Program) -> Program:
    own = settings(program)
    directed = [n for n in program.nodes("step") if n.op == "sign" and contains_old(n)]
    if not directed or "betas.0" not in own:
        raise NotFoundError("no direction of its own")
    return program.rewriting(lambda n: own["betas.0"] if n is own.get("betas.1") else n, *program.slots)


# -- Adagrad, Adadelta, RMSprop ---------------------------------------------------------------------------------------


def _rate_ahead(program: Program) -> Program:
    before = add(STEP, MINUS)
    return program.setting(step=put(program["step"], before, STEP))


def _sum_as_average(program: Program) -> Program:
    sums = [a for a in second(program) if a.kept is ONE]
    if not sums:
        raise NotFoundError("no sum of squares")
    step = program["step"]
    for a in sums:
        step = put(step, a.new, mul(a.new, raised(STEP, -1)))
    return program.setting(step=step)


def _of_steps(change: Callable[[Program, Node], Node]) -> Edit:
    """What the average of the squared steps takes."""

    def edit(program: Program) -> Program:
        for a in second(program):
            if any(n.args == ("update", False) for n in walk(a.fresh)):
                kept = mul(a.kept, a.old)
                return program.replacing(a.name, add(kept, mul(a.rest, change(program, a.fresh))))
        raise NotFoundError("no average of steps")

    return edit


def _no_root_of_steps(program: Program) -> Program:
    for a in second(program):
        update = program.parts.get("update", ONE)
        over = next((n for n in walk(update) if based(n)[1] == 0.5 and contains(n, a.old)), None)
        if over is not None:
            return program.replacing("update", put(update, over, ONE))
    raise NotFoundError("no root of past steps")


def _centre_not_squared(program: Program, node: Node) -> Node:
    centred = {a.new for a in first(program) if a.averaging}
    if node.op == "pow" and based(node)[1] == 2 and node.args[0] in centred:
        return node.args[0]  # type: ignore[no-any-return]
    return node


# -- Adafactor --------------------------------------------------------------------------------------------------------


def _factored(program: Program) -> None:
    if not any(n.op == "mean" and len(n.args) == 2 for n in program.nodes()):
        raise NotFoundError("no means of rows")


def _eps_added(program: Program) -> Program:
    eps = settings(program).get("eps.0", number(2.0**-52))
    bound = square(eps)

    def change(_: Program, node: Node) -> Node:
        if node.op == "maximum" and (bound in node.args or eps in node.args):
            return mul(*(a for a in node.args if a is not bound and a is not eps))
        return node

    new = add(square(GRADIENT), eps)
    made = of_nodes(change)(program)
    made = made.rewriting(lambda n: new if n is square(GRADIENT) else n, *program.slots)
    unbounded = any(made.parts.get(n) is not program.parts.get(n) for n in ("step", "update"))
    if not unbounded or all(made[n] is program[n] for n in program.slots):
        raise NotFoundError("no bound of the average square")
    return made


def _size_of_parameter(program: Program, node: Node) -> Node:
    del program
    sized = node.op == "maximum" and any(n is P for a in node.args for n in walk(a)) and not _has_state(node)
    return ONE if sized else node


def _has_state(node: Node) -> bool:
    return any(n.op in ("named", "old") for n in walk(node))


def _rate_constant(program: Program, node: Node) -> Node:
    lr = setting(program, "lr")
    return lr if node.op == "ite" and lr in node.args[1:] and not _has_state(node) else node


def _not_clipped(program: Program, node: Node) -> Node:
    del program
    clipped = node.op == "pow" and node.args[0].op == "maximum" and ONE in node.args[0].args
    return ONE if clipped and _has_state(node) else node


def _not_normalised(program: Program, node: Node) -> Node:
    del program
    bounded = node.op == "pow" and based(node)[1] == -1 and node.args[0].op == "maximum"
    means = bounded and any(a.op == "mean" and a.args[0].op == "named" for a in node.args[0].args)
    return ONE if means else node


def _reversed(program: Program, node: Node) -> Node:
    del program
    if node.op == "pow" and node.args[0] is STEP and node.args[1].op != "number":
        return minus(ONE, node)
    return node


def _is_mean(node: Node) -> bool:
    return any(n.op == "mean" for n in walk(node))


def _in_full(program: Program) -> Program:
    """One average of the parameter's shape in the place of the two of rows and columns."""
    _factored(program)
    if len(program.slots) != 2:
        raise NotFoundError("no rows and columns")
    row, col = program.slots
    old, new = leaf_of(program, row)
    kept, fresh = linear(program[row], old)
    whole = mul(*(f.args[0] if f.op == "mean" else f for f in factors(fresh)))
    (col_old, col_new) = leaf_of(program, col)

    def unfactored(_: Program, node: Node) -> Node:
        if node.op != "mul" or not {new, col_new} <= set(node.args):
            return node
        return mul(new, *(f for f in node.args if f not in (new, col_new) and not _is_mean(f)))

    full = of_nodes(unfactored, "step")(program)
    return full.with_parts({**full.parts, row: add(mul(kept, old), whole), col: col_old})


_MAXIMA = (
    Mistake(
        "no-maximum",
        "a sum in the place of the maximum",
        "`max(beta2 * u, abs(grad))`",
        _ADAMAX,
        _in_peak(lambda peak: add(*peak.args)),
    ),
    Mistake(
        "maximum-never-forgets",
        "β₂ missing from the running maximum",
        "`max(beta2 * u, abs(grad))`",
        _ADAMAX,
        _in_peak(lambda peak: call("maximum", mul(*(f for f in factors(peak.args[0]) if not f.scalar)), peak.args[1])),
    ),
    Mistake(
        "no-magnitude",
        "the gradient instead of its magnitude in the maximum",
        "`abs(grad)`",
        _ADAMAX,
        _in_peak(lambda peak: put(peak, call("abs", GRADIENT), GRADIENT)),
    ),
)

_LIONS = (
    Mistake(
        "sign-of-average",
        "the sign of the updated average instead of the interpolation",
        "`sign(m)` after `m = beta2 * m + (1 - beta2) * grad`; the direction has β₁ and the old m",
        _LION,
        _in_sign(lambda program, x: call("sign", _one_average(program)[1])),
    ),
    Mistake(
        "one-beta",
        "β₁ for the average too",
        "`m = beta1 * m + (1 - beta1) * grad`; the average has β₂",
        _LION,
        _one_beta,
    ),
    Mistake(
        "sign-of-gradient",
        "the sign of the gradient alone",
        "`sign(grad)`, or an average that is not kept: the direction is `sign(beta1 * m + (1 - beta1) * grad)`",
        _LION,
        _in_sign(lambda program, x: call("sign", GRADIENT)),
    ),
    Mistake(
        "sign-of-old-average",
        "the sign of the average before the gradient",
        "`sign(m)`; the direction is `sign(beta1 * m + (1 - beta1) * grad)`",
        _LION,
        _in_sign(lambda program, x: call("sign", _one_average(program)[0])),
    ),
    Mistake(
        "no-sign",
        "no sign: the step is as long as the interpolation",
        "`sign(...)` around the direction",
        _LION,
        _in_sign(lambda program, x: x),
    ),
)

_OTHERS = (
    Mistake(
        "lr-decay-off-by-one",
        "the decay of the learning rate one step ahead",
        "`lr / (1 + t * lr_decay)`; it is `(t - 1)`",
        "torch.optim.Adagrad",
        _rate_ahead,
    ),
    Mistake(
        "sum-as-average",
        "an average of the squares instead of their sum",
        "`sum / t`; Adagrad divides by the root of the whole sum",
        "Duchi, Hazan and Singer, JMLR 12 (2011)",
        _sum_as_average,
    ),
    Mistake(
        "no-root-of-steps",
        "no root of past steps in the numerator",
        "`sqrt(acc_delta + eps)` over `sqrt(square_avg + eps)`",
        _ADADELTA,
        _no_root_of_steps,
    ),
    Mistake(
        "steps-with-lr",
        "the learning rate inside the average of squared steps",
        "`(lr * delta)**2`; torch averages `delta**2`",
        _ADADELTA,
        _of_steps(lambda program, fresh: mul(square(setting(program, "lr")), fresh)),
    ),
    Mistake(
        "steps-from-gradient",
        "the average of squared steps taken of the gradient",
        "`acc_delta` averages `delta**2`, not `grad**2`",
        _ADADELTA,
        _of_steps(lambda program, fresh: square(GRADIENT)),
    ),
    Mistake(
        "centered-not-squared",
        "the average gradient subtracted without being squared",
        "`v - grad_avg**2`",
        "Graves, arXiv:1308.0850, eq. 40",
        of_nodes(_centre_not_squared),
    ),
)

_FACTORED = (
    Mistake(
        "eps1-added",
        "ε₁ added to the squared gradient instead of bounding v",
        "`grad**2 + eps1`; torch takes `max(v, eps1**2)`",
        _ADAFACTOR,
        _eps_added,
        conventions=by(of=("paper", "huggingface")),
    ),
    Mistake(
        "not-relative",
        "steps that do not depend on the parameter's size",
        "`max(eps2, rms(p))`; Hugging Face's scale_parameter=False",
        _ADAFACTOR,
        of_nodes(_size_of_parameter, "step"),
    ),
    Mistake(
        "rate-not-falling",
        "a learning rate that does not fall as 1/√t",
        "`min(lr, 1 / sqrt(t))`; Hugging Face's relative_step=False",
        _ADAFACTOR,
        of_nodes(_rate_constant, "step"),
    ),
    Mistake(
        "not-clipped",
        "the update not clipped",
        "`update / max(1, rms(update) / d)`",
        _ADAFACTOR,
        of_nodes(_not_clipped, "step"),
    ),
    Mistake(
        "factors-not-normalised",
        "rows times columns not divided by the rows' mean",
        "`row * col / mean(row)`",
        _ADAFACTOR,
        of_nodes(_not_normalised, "step"),
    ),
    Mistake(
        "beta2-reversed",
        "the weights of old and new square exchanged",
        "`t**beta2_decay` is the weight of the new square, one minus it that of the old",
        _ADAFACTOR,
        of_nodes(_reversed),
    ),
    Mistake(
        "not-factored",
        "the average square kept in full for matrices",
        "rows and columns for parameters of two and more dimensions",
        _ADAFACTOR,
        _in_full,
    ),
)

MISTAKES = (*_MAXIMA, *_LIONS, *_OTHERS, *_FACTORED)

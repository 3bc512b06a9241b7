"""State: its first value, when it is updated, and whether it is kept."""

from __future__ import annotations

from collections.abc import Callable

from gradstep.judge.algebra.anatomy import (
    Average,
    NotFoundError,
    first,
    leaf_of,
    second,
)
from gradstep.judge.algebra.expression import (
    COUNT,
    ONE,
    STEP,
    Node,
    P,
    call,
    contains,
)
from gradstep.judge.algebra.expression import substitute as put
from gradstep.judge.algebra.program import Program
from gradstep.judge.catalogue.averages import maxima, moments_of
from gradstep.judge.catalogue.mistake import ADAM_PAPER, Mistake, both
from gradstep.judge.formula import Edit

_READ = ADAM_PAPER


def _first_value(which: str, value: Callable[[Average], Node]) -> Edit:
    """Something else than zero before the first step."""

    def edit(program: Program) -> Program:
        squares = [a for a in second(program) if a.averaging and not contains(a.kept, STEP)]
        own = squares if which == "v" else moments_of(program)
        if not own:
            raise NotFoundError("no such average")
        for a in own:
            start = call("ite", call("eq", COUNT, ONE), value(a), a.old)
            program = program.replacing(a.name, put(program[a.name], a.old, start))
        return program

    return edit


def _late(which: Callable[[Program], list[str]]) -> Edit:
    """The step taken with the state as it was before it."""

    def edit(program: Program) -> Program:
        late = dict(leaf_of(program, name)[::-1] for name in which(program))
        return program.rewriting(lambda n: late.get(n, n), "step")

    return edit


def _never_updated(which: Callable[[Program], list[str]]) -> Edit:
    """A slot that stays what it was at first: its new value is computed and thrown away."""

    def edit(program: Program) -> Program:
        for name in which(program):
            program = program.replacing(name, leaf_of(program, name)[0])
        return program

    return edit


def _not_stored(slot: str) -> Edit:
    def edit(program: Program) -> Program:
        name = f"new {slot}"
        if name not in program.parts:
            raise NotFoundError(f"no slot {slot}")
        old, _ = leaf_of(program, name)
        return program.rewriting(lambda n: program.first_value(slot) if n is old else n)

    return edit


def _nothing_stored(program: Program) -> Program:
    for name in program.slots:
        program = _not_stored(name.removeprefix("new "))(program)
    return program


def not_stored(slot: str, what: str) -> Mistake:
    """A slot that is computed and lost."""
    return Mistake(
        f"{slot.replace('_', '-')}-not-stored",
        f"{what} computed but not kept",
        f"the state `{slot}` after the step: write it back, or update it in place (`mul_`, `add_`)",
        "the tensor methods that end in an underscore work in place; the others return a new tensor",
        _not_stored(slot),
    )


WORDS = {
    "exp_avg": "the average of the gradient",
    "exp_avg_sq": "the average square",
    "exp_inf": "the running maximum",
    "square_avg": "the average square",
    "acc_delta": "the average squared step",
    "grad_avg": "the average gradient",
    "momentum_buffer": "the momentum",
    "sum": "the sum of squares",
}
"""What the slots of gradstep's own rules are called; another's are called by their names."""


MISTAKES = (
    Mistake(
        "m-from-gradient-first",
        "the average gradient started at the first gradient instead of zero",
        "`exp_avg = grad.clone()` at the first step; the correction is made for a start at zero",
        _READ,
        _first_value("m", lambda a: a.fresh),
    ),
    Mistake(
        "v-from-square-first",
        "the average square started at the first square instead of zero",
        "`exp_avg_sq = grad**2` at the first step: start at zeros",
        _READ,
        _first_value("v", lambda a: a.fresh),
    ),
    Mistake(
        "averages-from-first-values",
        "both averages started at their first values instead of zero",
        "`exp_avg = grad.clone()` and `exp_avg_sq = grad**2` at the first step: start at zeros",
        _READ,
        both(_first_value("m", lambda a: a.fresh), _first_value("v", lambda a: a.fresh)),
    ),
    Mistake(
        "m-from-one",
        "the average gradient started at one instead of zero",
        "`torch.ones_like(p)`: it is `zeros_like`",
        _READ,
        _first_value("m", lambda a: ONE),
    ),
    Mistake(
        "v-from-one",
        "the average square started at one instead of zero",
        "`torch.ones_like(p)`: it is `zeros_like`",
        _READ,
        _first_value("v", lambda a: ONE),
    ),
    Mistake(
        "averages-from-one",
        "both averages started at one instead of zero",
        "`torch.ones_like(p)`: it is `zeros_like`",
        _READ,
        both(_first_value("m", lambda a: ONE), _first_value("v", lambda a: ONE)),
    ),
    Mistake(
        "m-from-parameter",
        "the average gradient started at the weight instead of zero",
        "`p.clone()` where it should be `torch.zeros_like(p)`",
        _READ,
        _first_value("m", lambda a: P),
    ),
    Mistake(
        "m-updated-late",
        "the average gradient updated after the step that uses it",
        "update m first, then take the step with it",
        _READ,
        _late(lambda p: [a.name for a in first(p)]),
        when=lambda p: len(p.slots) > 1,
    ),
    Mistake(
        "v-updated-late",
        "the average square updated after the step that uses it",
        "update v first, then take the step with it",
        _READ,
        _late(lambda p: [a.name for a in second(p)] + maxima(p)),
        when=lambda p: len(p.slots) > 1,
    ),
    Mistake(
        "state-updated-late",
        "the state updated after the step that uses it",
        "update the state first, then take the step with it",
        _READ,
        _late(lambda p: list(p.slots)),
    ),
    Mistake(
        "m-never-updated",
        "the average gradient never updated: it stays at its first value",
        "`exp_avg.mul(beta1)` without the underscore computes a new tensor that nobody keeps",
        "the tensor methods that end in an underscore work in place; the others return a new tensor",
        _never_updated(lambda p: [a.name for a in first(p)]),
    ),
    Mistake(
        "v-never-updated",
        "the average square never updated: it stays at its first value",
        "`exp_avg_sq.mul(beta2)` without the underscore computes a new tensor that nobody keeps",
        "the tensor methods that end in an underscore work in place; the others return a new tensor",
        _never_updated(lambda p: [a.name for a in second(p)] + maxima(p)),
    ),
    Mistake(
        "state-not-stored",
        "the averages computed but not kept: each step starts from zero",
        "`exp_avg.mul(beta1)` without the underscore, or state made anew at each step",
        "the tensor methods that end in an underscore work in place; the others return a new tensor",
        _nothing_stored,
        when=lambda p: len(p.slots) > 1,
    ),
)

UNMOVED = Mistake(
    "parameter-not-moved",
    "the new weight computed but not written to the parameter",
    "`p = p - ...`, which only names a new tensor: use `p.add_(...)`, `p.copy_(...)` or `param.data = ...`",
    "an assignment to a loop's variable never changes what the loop is over",
    lambda program: program.setting(p=P),
)

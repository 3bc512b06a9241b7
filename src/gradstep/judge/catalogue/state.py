"""State: started, updated or kept wrongly."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import TypeAlias

from gradstep.judge.algebra.anatomy import Average, first_moments, require, second_moments, slot_leaves
from gradstep.judge.algebra.expression import COUNT, ONE, STEP, Node, P, call, contains, substitute
from gradstep.judge.algebra.program import Program
from gradstep.judge.catalogue.averages import maximum_slots, step_moments
from gradstep.judge.catalogue.mistake import Mistake, adam_mistake

_in_place_mistake = partial(
    Mistake, read="the tensor methods that end in an underscore work in place; the others return a new tensor"
)


def _start_at(moments: str, value: Callable[[Average], Node], program: Program) -> Program:
    """Start the averages of each of these moments (``m``, ``v`` or ``mv``) at ``value`` of them instead of zero."""
    for moment in moments:
        squares = [a for a in second_moments(program) if a.is_average and not contains(a.old_weight, STEP)]
        for a in require(squares if moment == "v" else step_moments(program), "such average"):
            start = call("ite", call("eq", COUNT, ONE), value(a), a.old)
            program = program.replace_part(a.name, substitute(program[a.name], a.old, start))
    return program


Slots: TypeAlias = Callable[[Program], Iterable[str]]


def _update_late(slots: Slots, program: Program) -> Program:
    """Take the step with the old state of these slots."""
    old_by_new = dict(slot_leaves(program, name)[::-1] for name in slots(program))
    return program.rewrite(lambda n: old_by_new.get(n, n), "step")


def _never_update(slots: Slots, program: Program) -> Program:
    """Compute the new values of these slots and discard them."""
    return program.with_parts({**program.parts, **{name: slot_leaves(program, name)[0] for name in slots(program)}})


def _first_slots(program: Program) -> list[str]:
    return [a.name for a in first_moments(program)]


def _second_slots(program: Program) -> list[str]:
    return [a.name for a in second_moments(program)] + maximum_slots(program)


def _lose(slots: Slots, program: Program) -> Program:
    """Start each step with the first values of these slots."""
    first = {slot_leaves(program, n)[0]: program.first_value(n.removeprefix("new ")) for n in slots(program)}
    return program.rewrite(lambda n: first.get(n, n))


def not_stored(slot: str, what: str) -> Mistake:
    """Return the mistake of a slot that is computed and not kept."""
    return _in_place_mistake(
        f"{slot.replace('_', '-')}-not-stored",
        f"{what} computed but not kept",
        f"the state `{slot}` after the step: write it back, or update it in place (`mul_`, `add_`)",
        partial(_lose, lambda program: {f"new {slot}"} & program.parts.keys()),
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
"""Words for the slots of gradstep's own rules; other slots are called by their names."""


MISTAKES = (
    adam_mistake(
        "m-from-gradient-first",
        "the average gradient started at the first gradient instead of zero",
        "`exp_avg = grad.clone()` at the first step; the correction is made for a start at zero",
        partial(_start_at, "m", lambda a: a.value),
    ),
    adam_mistake(
        "v-from-square-first",
        "the average square started at the first square instead of zero",
        "`exp_avg_sq = grad**2` at the first step: start at zeros",
        partial(_start_at, "v", lambda a: a.value),
    ),
    adam_mistake(
        "averages-from-first-values",
        "both averages started at their first values instead of zero",
        "`exp_avg = grad.clone()` and `exp_avg_sq = grad**2` at the first step: start at zeros",
        partial(_start_at, "mv", lambda a: a.value),
    ),
    adam_mistake(
        "m-from-one",
        "the average gradient started at one instead of zero",
        "`torch.ones_like(p)`: it is `zeros_like`",
        partial(_start_at, "m", lambda a: ONE),
    ),
    adam_mistake(
        "v-from-one",
        "the average square started at one instead of zero",
        "`torch.ones_like(p)`: it is `zeros_like`",
        partial(_start_at, "v", lambda a: ONE),
    ),
    adam_mistake(
        "averages-from-one",
        "both averages started at one instead of zero",
        "`torch.ones_like(p)`: it is `zeros_like`",
        partial(_start_at, "mv", lambda a: ONE),
    ),
    adam_mistake(
        "m-from-parameter",
        "the average gradient started at the weight instead of zero",
        "`p.clone()` where it should be `torch.zeros_like(p)`",
        partial(_start_at, "m", lambda a: P),
    ),
    adam_mistake(
        "m-updated-late",
        "the average gradient updated after the step that uses it",
        "update m first, then take the step with it",
        partial(_update_late, _first_slots),
        when=lambda p: len(p.slots) > 1,
    ),
    adam_mistake(
        "v-updated-late",
        "the average square updated after the step that uses it",
        "update v first, then take the step with it",
        partial(_update_late, _second_slots),
        when=lambda p: len(p.slots) > 1,
    ),
    adam_mistake(
        "state-updated-late",
        "the state updated after the step that uses it",
        "update the state first, then take the step with it",
        partial(_update_late, lambda p: p.slots),
    ),
    _in_place_mistake(
        "m-never-updated",
        "the average gradient never updated: it stays at its first value",
        "`exp_avg.mul(beta1)` without the underscore computes a new tensor that nobody keeps",
        partial(_never_update, _first_slots),
    ),
    _in_place_mistake(
        "v-never-updated",
        "the average square never updated: it stays at its first value",
        "`exp_avg_sq.mul(beta2)` without the underscore computes a new tensor that nobody keeps",
        partial(_never_update, _second_slots),
    ),
    _in_place_mistake(
        "state-not-stored",
        "the averages computed but not kept: each step starts from zero",
        "`exp_avg.mul(beta1)` without the underscore, or state made anew at each step",
        partial(_lose, lambda p: p.slots),
        when=lambda p: len(p.slots) > 1,
    ),
    Mistake(
        "parameter-not-moved",
        "the new weight computed but not written to the parameter",
        "`p = p - ...`, which only names a new tensor: use `p.add_(...)`, `p.copy_(...)` or `param.data = ...`",
        lambda program: program.replace(p=P),
        read="an assignment to a loop's variable never changes what the loop is over",
    ),
)

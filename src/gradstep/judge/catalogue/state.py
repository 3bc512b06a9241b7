"""State: started, updated or kept wrongly."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import TypeAlias

from gradstep.judge.algebra.expression import COUNT, ONE, STEP, Node, P, call
from gradstep.judge.algebra.program import Average, Program, require
from gradstep.judge.catalogue.averages import maximum_slots, step_moments
from gradstep.judge.formula import Change, Edit


def _start_at(moments: str, value: Callable[[Average], Node], program: Program) -> Program:
    """Start the averages of each of these moments (``m``, ``v`` or ``mv``) at ``value`` of them instead of zero."""
    for moment in moments:
        squares = [a for a in program.second_moments if a.is_average and not a.old_weight.contains(STEP)]
        for a in require(squares if moment == "v" else step_moments(program), "such average"):
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
    return program.with_parts({**program.parts, **{name: program.slot_leaves(name)[0] for name in slots(program)}})


def _first_slots(program: Program) -> list[str]:
    return [a.name for a in program.first_moments]


def _second_slots(program: Program) -> list[str]:
    return [a.name for a in program.second_moments] + maximum_slots(program)


def _lose(slots: Slots, program: Program) -> Program:
    """Start each step with the first values of these slots."""
    first = {program.slot_leaves(n)[0]: program.first_value(n.removeprefix("new ")) for n in slots(program)}
    return program.rewrite(lambda n: first.get(n, n))


def lose(slot: str) -> Edit:
    """Return the edit that computes a slot and does not keep it."""
    return partial(_lose, lambda program: {f"new {slot}"} & program.parts.keys())


CHANGES: dict[str, Edit | Change] = {
    "m-from-gradient-first": partial(_start_at, "m", lambda a: a.value),
    "v-from-square-first": partial(_start_at, "v", lambda a: a.value),
    "averages-from-first-values": partial(_start_at, "mv", lambda a: a.value),
    "m-from-one": partial(_start_at, "m", lambda a: ONE),
    "v-from-one": partial(_start_at, "v", lambda a: ONE),
    "averages-from-one": partial(_start_at, "mv", lambda a: ONE),
    "m-from-parameter": partial(_start_at, "m", lambda a: P),
    "m-updated-late": Change(partial(_update_late, _first_slots), when=lambda p: len(p.slots) > 1),
    "v-updated-late": Change(partial(_update_late, _second_slots), when=lambda p: len(p.slots) > 1),
    "state-updated-late": partial(_update_late, lambda p: p.slots),
    "m-never-updated": partial(_never_update, _first_slots),
    "v-never-updated": partial(_never_update, _second_slots),
    "state-not-stored": Change(partial(_lose, lambda p: p.slots), when=lambda p: len(p.slots) > 1),
    "parameter-not-moved": lambda program: program.replace(p=P),
}

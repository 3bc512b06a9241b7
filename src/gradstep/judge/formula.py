"""A rule as it is computed and driven: the true one, or one with known mistakes in it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import cache, lru_cache
from types import SimpleNamespace
from typing import Any, Literal, TypeAlias, final

import numpy as np

from gradstep.judge.algebra.anatomy import NotFoundError
from gradstep.judge.algebra.program import Program
from gradstep.judge.algebra.trace import Key, UntraceableError, key_of, trace, values_of
from gradstep.judge.battery import battery
from gradstep.rules import Rule, State

Edit: TypeAlias = Callable[[Program], Program]
"""A change of a traced rule; it raises :class:`NotFoundError` where there is nothing to change."""


@final
@dataclass(frozen=True)
class Habits:
    """How an optimizer goes about its parameters, beside the mathematics of one step; the defaults are right.

    Attributes:
        clock: what counts as a step: each update of the parameter (``own``), each call of ``step()`` (``calls``), each
            update of any parameter (``visits``).
        offset: added to the step number.
        missing: a parameter without gradient is left alone, treated as if its gradient were ``zero``, or ``ends`` the
            step for those after it.
        skips_zero: a parameter whose gradient is zero everywhere is left alone too.
        shared: all parameters use one state.
        writes_gradient: the gradient with the decay in it is written over the gradient.
        latched: settings are read at construction only.
        first_group: every parameter uses the settings of the first group.
        one_rate: every parameter uses the learning rate given to the constructor, whatever its group says.
        forgets: what ``state_dict`` loses: the slots, or the step count.
        ignores: settings that have no effect: the rule's default is used instead.
        always: flags that are on, whatever is set.
    """

    clock: Literal["own", "calls", "visits"] = "own"
    offset: int = 0
    missing: Literal["left", "zero", "ends"] = "left"
    skips_zero: bool = False
    shared: bool = False
    writes_gradient: bool = False
    latched: bool = False
    first_group: bool = False
    one_rate: bool = False
    forgets: Literal["nothing", "slots", "steps", "all"] = "nothing"
    ignores: tuple[str, ...] = ()
    always: tuple[str, ...] = ()


@final
@dataclass(frozen=True)
class Change:
    """What one known mistake does to a rule.

    Attributes:
        edit: of the mathematics of one step.
        habits: the fields of :class:`Habits` that differ.
    """

    edit: Edit | None = None
    habits: tuple[tuple[str, Any], ...] = ()


@final
@dataclass(frozen=True)
class Step:
    """What comes of one step of one parameter.

    Attributes:
        value: the new parameter.
        slots: the new state.
        scalars: the new numbers beside it.
        divided: a number was divided by zero on the way: Python raises an error there, and NumPy goes on.
    """

    value: Any
    slots: dict[str, Any]
    scalars: dict[str, float]
    divided: bool = False


class Stepper(ABC):
    """One parameter's rule with its settings, ready to compute steps."""

    @abstractmethod
    def step(
        self, number: int, count: int, p: Any, g: Any, slots: Mapping[str, Any], scalars: Mapping[str, float]
    ) -> Step:
        """The step of that number; ``count`` says how many the parameter has had, this one included."""


@final
class _AsItIs(Stepper):
    def __init__(self, rule: Rule) -> None:
        self.rule = rule

    def step(
        self, number: int, count: int, p: Any, g: Any, slots: Mapping[str, Any], scalars: Mapping[str, float]
    ) -> Step:
        numbers = self.rule.coefficients(number, **scalars)
        if any(isinstance(x, complex) for x in numbers.values()):
            raise ValueError("the root of a negative number")
        state = State(**slots)
        new = self.rule.update(p, g, state, SimpleNamespace(**numbers))
        return Step(new, {name: vars(state)[name] for name in slots}, {name: numbers[name] for name in scalars})


@final
class _Edited(Stepper):
    def __init__(self, rule: Rule, program: Program) -> None:
        self.rule, self.program = rule, program
        self.values: dict[tuple[str, str], Any] = {("setting", n): v for n, v in values_of(rule).items()}
        self.opaque = program.opaque

    def step(
        self, number: int, count: int, p: Any, g: Any, slots: Mapping[str, Any], scalars: Mapping[str, float]
    ) -> Step:
        values = self.values
        values[("step", "")], values[("count", "")] = float(number), count
        values[("p", "")], values[("g", "")] = p, g
        for name, value in slots.items():
            values[("old", name)] = value
        for name, value in scalars.items():
            values[("memo", name)] = value
        if self.opaque:
            computed = self.rule.coefficients(number, **scalars)
            values |= {("coefficient", name): value for name, value in computed.items()}
        results, divided = self.program.run(values)
        return Step(
            results["p"],
            {name: _shaped(results[f"new {name}"], slots[name]) for name in slots},
            {name: results[f"memo {name}"] for name in scalars},
            divided,
        )


def _shaped(new: Any, old: Any) -> Any:
    """A state that an edit has made one number, as an array like the old one."""
    return np.full_like(old, new) if np.ndim(new) == 0 and np.ndim(old) else new


@cache
def _traced(rule: type[Rule], key: Key) -> Program | None:
    for example, ndim in examples(rule):
        if key_of(example, ndim) == key:
            return _trace(example, ndim)
    return None


def _trace(rule: Rule, ndim: int) -> Program | None:
    try:
        return trace(rule, ndim)
    except UntraceableError:
        return None


@cache
def examples(rule: type[Rule]) -> tuple[tuple[Rule, int], ...]:
    """The rule in each of the forms that the battery asks of it, each with a parameter's number of dimensions."""
    found: dict[Key, tuple[Rule, int]] = {}
    for scenario in battery(rule):
        try:
            made = rule(**scenario.settings)
        except ValueError:
            continue
        for value in scenario.initial:
            found.setdefault(key_of(made, value.ndim), (made, value.ndim))
    return tuple(found.values())


@lru_cache(maxsize=8192)
def _edited(rule: type[Rule], key: Key, edits: tuple[Edit, ...]) -> tuple[Program | None, tuple[bool, ...]]:
    """The program with the edits that can be made in it, one after the other, and which these are."""
    if not edits:
        return _traced(rule, key), ()
    program, made = _edited(rule, key, edits[:-1])
    if program is None:
        return None, (*made, False)
    try:
        after = edits[-1](program)
    except (LookupError, ValueError):
        # NotFoundError, or an edit before it has left a form that this one does not know. Which kinds every rule must
        # have, tests/judge/kinds.json holds.
        return program, (*made, False)
    return after, (*made, not after.same(program))


@final
@dataclass(frozen=True)
class Formula:
    """A rule's mathematics with edits in it, and the habits of the optimizer around them."""

    rule: type[Rule]
    edits: tuple[Edit, ...] = ()
    habits: Habits = Habits()

    def settings(self, given: Mapping[str, Any]) -> Rule:
        """The rule with the given settings, but for those that this formula ignores."""
        own = {name: value for name, value in given.items() if name not in self.habits.ignores}
        made = self.rule(**own)
        for flag in self.habits.always:
            # Without a look at what goes together: a submission that has it always on does not look either.
            object.__setattr__(made, flag, True)
        return made

    def stepper(self, rule: Rule, ndim: int) -> Stepper:
        """What computes the steps of a parameter of so many dimensions."""
        if not self.edits:
            return _AsItIs(rule)
        program, made = _edited(self.rule, key_of(rule, ndim), self.edits)
        return _Edited(rule, program) if program is not None and any(made) else _AsItIs(rule)

    def program(self, rule: Rule, ndim: int) -> Program | None:
        """The graph that is computed, or None where the rule cannot be traced."""
        return _edited(self.rule, key_of(rule, ndim), self.edits)[0]

    def gradient(self, rule: Rule, p: Any, g: Any, number: int) -> Any:
        """The gradient with the decay that is added to it in the step of that number."""
        program = self.program(rule, np.ndim(p))
        if program is None:
            return g
        values = {("setting", n): v for n, v in values_of(rule).items()}
        values |= {("p", ""): p, ("g", ""): g, ("step", ""): float(number), ("count", ""): number}
        return Program({"p": program["G"]}).run(values)[0]["p"]


def true_formula(rule: type[Rule]) -> Formula:
    """The rule as it is."""
    return Formula(rule)


def changed(rule: type[Rule], changes: tuple[Change, ...]) -> Formula:
    """The rule with changes made one after the other.

    Raises:
        NotFoundError: a change does not apply to this rule, or not after those before it.
    """
    edits, habits = tuple(c.edit for c in changes if c.edit is not None), Habits()
    for change in changes:
        habits = _with(habits, change.habits)
    missing = set(range(len(edits)))
    for example, ndim in examples(rule) if edits else ():
        _, made = _edited(rule, key_of(example, ndim), edits)
        missing -= {i for i, done in enumerate(made) if done}
        if not missing:
            break
    if missing:
        raise NotFoundError(f"there is no place for it in {rule.__name__}")
    return Formula(rule, edits, habits)


_UNCHANGED = Habits()


def _with(habits: Habits, new: tuple[tuple[str, Any], ...]) -> Habits:
    before = {f.name: getattr(habits, f.name) for f in fields(Habits)}
    for name, value in new:
        if before[name] != getattr(_UNCHANGED, name) and not isinstance(value, tuple):
            raise NotFoundError(f"two changes of {name} exclude each other")
    return replace(habits, **{n: before[n] + v if isinstance(v, tuple) else v for n, v in new})

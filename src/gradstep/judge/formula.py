"""A rule and the loop around it, true or with known mistakes in them; their run through a scenario, in float64."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, fields, replace
from functools import cache, lru_cache
from types import SimpleNamespace
from typing import Any, Literal, TypeAlias, cast, final

import numpy as np

from gradstep.judge.algebra.program import Edit, NotFoundError, Program
from gradstep.judge.algebra.recording import UntraceableError
from gradstep.judge.algebra.trace import Key, key_of, trace, values_of
from gradstep.judge.scenario import Gradients, Scenario, Trajectory, Values, battery, flat
from gradstep.rules import Rule, State

Condition: TypeAlias = Callable[[Program], object]
"""Whether a traced rule meets a condition, by the truth of the result."""


@final
@dataclass(frozen=True)
class Habits:
    """How an optimizer treats its parameters, beside the mathematics of one step; the defaults are right."""

    # the step number counts the updates of the parameter (``own``), the calls of ``step()`` (``calls``) or the updates
    # of all parameters (``visits``)
    clock: Literal["own", "calls", "visits"] = "own"
    offset: int = 0  # number added to the step number
    # a parameter without gradient is ``left`` alone, has a gradient of ``zero``, or ``ends`` the step for the
    # parameters after it
    missing: Literal["left", "zero", "ends"] = "left"
    skips_zero: bool = False  # a parameter whose gradient is zero everywhere is left alone too
    shared: bool = False  # all parameters use one state
    writes_gradient: bool = False  # the gradient is overwritten by the gradient plus decay
    latched: bool = False  # settings are read only by the constructor
    first_group: bool = False  # every parameter uses the settings of the first group
    one_rate: bool = False  # every parameter uses the constructor's learning rate, not its group's
    forgets: Literal["nothing", "slots", "steps", "all"] = "nothing"  # the part of the state that ``state_dict`` loses
    ignores: tuple[str, ...] = ()  # settings without effect; the rule's defaults are used instead
    always: tuple[str, ...] = ()  # flags that are on whatever their setting


@final
@dataclass(frozen=True)
class RuleChange:
    """The change that one known mistake makes in a rule."""

    edit: Edit | None = None  # changes the mathematics of one step; None if that stays the same
    habits: tuple[tuple[str, Any], ...] = ()  # the fields of :class:`Habits` that differ
    # whether a rule can have the mistake, by its graph at its default settings; None for every rule
    when: Condition | None = None
    needs: str | None = None  # an operation of every rule that can have the mistake, with some of its settings


@final
@dataclass(frozen=True)
class Mistake:
    """A known way to write a rule differently; an error, unless it is a convention."""

    name: str  # identifier in kebab-case
    sentence: str  # the difference, as it follows "matches AdamW with …"
    look_for: str  # what to look for in the code, and what to put there
    change: RuleChange  # what it changes in a rule
    read: str = "the rule's docstring in gradstep.rules"  # where the right way is explained
    # who writes the rule like this on purpose, and for which rules (an empty tuple: for all)
    conventions: tuple[tuple[str, tuple[str, ...]], ...] = ()

    def conventions_of(self, rule: type[Rule]) -> tuple[str, ...]:
        """Return who has this difference in this rule on purpose; empty if it is simply wrong."""
        return tuple(holder for holder, rules in self.conventions if not rules or rule.__name__ in rules)


@final
@dataclass(frozen=True)
class Step:
    """The result of one step of one parameter."""

    value: Any  # the new parameter
    slots: dict[str, Any]  # the new state, arrays of the parameter's shape or of its slots' own shapes
    scalars: dict[str, float]  # the new scalars of the state
    divided: bool = False  # whether a scalar was divided by zero, where Python raises an error and NumPy goes on


@final
class FormulaStepper:
    """Computes the steps of one parameter, by a rule's edited graph; by the rule's own functions if that is None."""

    def __init__(self, rule: Rule, program: Program | None = None) -> None:
        self.rule, self.program = rule, program
        self.values: dict[tuple[str, str], Any] = {("setting", n): v for n, v in values_of(rule).items()}

    def step(
        self, number: int, count: int, p: Any, g: Any, slots: Mapping[str, Any], scalars: Mapping[str, float]
    ) -> Step:
        """Compute one step of a parameter along a gradient of its shape; the state is given by name.

        ``number`` is the step number of the bias corrections, ``count`` that of the parameter, this step included.
        """
        if self.program is None:
            return self._run_rule(number, p, g, slots, scalars)
        values = self.values
        values[("step", "")], values[("count", "")] = float(number), count
        values[("p", "")], values[("g", "")] = p, g
        for name, value in slots.items():
            values[("old", name)] = value
        for name, value in scalars.items():
            values[("memo", name)] = value
        if self.program.opaque:
            computed = self.rule.coefficients(number, **scalars)
            values |= {("coefficient", name): value for name, value in computed.items()}
        results, divided = self.program.run(values)
        return Step(
            results["p"],
            {name: _broadcast(results[f"new {name}"], slots[name]) for name in slots},
            {name: results[f"memo {name}"] for name in scalars},
            divided,
        )

    def _run_rule(self, number: int, p: Any, g: Any, slots: Mapping[str, Any], scalars: Mapping[str, float]) -> Step:
        numbers = self.rule.coefficients(number, **scalars)
        if any(isinstance(x, complex) for x in numbers.values()):
            raise ValueError("the root of a negative number")
        state = State(**slots)
        new = self.rule.update(p, g, state, SimpleNamespace(**numbers))
        return Step(new, {name: vars(state)[name] for name in slots}, {name: numbers[name] for name in scalars})


def _broadcast(new: Any, old: Any) -> Any:
    """Return a state that an edit has reduced to one number as an array of the old shape."""
    return np.full_like(old, new) if np.ndim(new) == 0 and np.ndim(old) else new


@cache
def _trace_form(rule: type[Rule], key: Key) -> Program | None:
    """Return the graph of the rule's form with this key, or None if it cannot be traced."""
    for example, ndim in examples(rule):
        if key_of(example, ndim) == key:
            try:
                return trace(example, ndim)
            except UntraceableError:
                return None
    return None


@cache
def examples(rule: type[Rule]) -> tuple[tuple[Rule, int], ...]:
    """Return the rule in each of the forms that the battery uses, with a parameter's number of dimensions."""
    forms: dict[Key, tuple[Rule, int]] = {}
    for scenario in battery(rule):
        try:
            form = rule(**scenario.settings)
        except ValueError:
            continue
        for value in scenario.initial:
            forms.setdefault(key_of(form, value.ndim), (form, value.ndim))
    return tuple(forms.values())


@lru_cache(maxsize=8192)
def _apply_edits(rule: type[Rule], key: Key, edits: tuple[Edit, ...]) -> tuple[Program | None, tuple[bool, ...]]:
    """Apply the edits one after the other; return the program, and whether each edit changed it."""
    if not edits:
        return _trace_form(rule, key), ()
    program, applied = _apply_edits(rule, key, edits[:-1])
    if program is None:
        return None, (*applied, False)
    try:
        after = edits[-1](program)
    except (LookupError, ValueError):
        # NotFoundError, or an earlier edit has left a form that this one does not expect. tests/judge/kinds.json lists
        # the mistakes that each rule must have.
        return program, (*applied, False)
    return after, (*applied, not after.same(program))


def _set_unchecked(rule: Rule, **settings: Any) -> Rule:
    """Return a copy of the rule with these settings, even if they or a mistake's are out of bounds."""
    changed = copy(rule)
    for name, value in settings.items():
        object.__setattr__(changed, name, value)
    return changed


@final
@dataclass(frozen=True)
class Formula:
    """A rule's mathematics with edits in it, and the habits of the optimizer around it."""

    rule: type[Rule]
    edits: tuple[Edit, ...] = ()
    habits: Habits = Habits()

    def settings(self, values: Mapping[str, Any]) -> Rule:
        """Return the rule with the given settings, except those that this formula ignores."""
        own = {name: value for name, value in values.items() if name not in self.habits.ignores}
        # A submission in which a flag is always on does not check it either.
        return _set_unchecked(self.rule(**own), **dict.fromkeys(self.habits.always, True))

    def stepper(self, rule: Rule, ndim: int) -> FormulaStepper:
        """Return the stepper of a parameter with ``ndim`` dimensions."""
        if not self.edits:
            return FormulaStepper(rule)
        program, applied = _apply_edits(self.rule, key_of(rule, ndim), self.edits)
        return FormulaStepper(rule, program if any(applied) else None)

    def program(self, rule: Rule, ndim: int) -> Program | None:
        """Return the edited graph, or None if the rule cannot be traced."""
        return _apply_edits(self.rule, key_of(rule, ndim), self.edits)[0]

    def gradient(self, rule: Rule, p: Any, g: Any, number: int) -> Any:
        """Return the gradient plus the decay that this step adds to it; ``p`` and ``g`` have one shape."""
        program = self.program(rule, np.ndim(p))
        if program is None:
            return g
        values = {("setting", n): v for n, v in values_of(rule).items()}
        values |= {("p", ""): p, ("g", ""): g, ("step", ""): float(number), ("count", ""): number}
        return Program({"p": program["G"]}).run(values)[0]["p"]


def apply_changes(rule: type[Rule], changes: Sequence[RuleChange]) -> Formula:
    """Return the rule with the changes applied one after the other.

    Raises:
        NotFoundError: a change does not apply to this rule, or not after those before it.
    """
    edits, habits = tuple(c.edit for c in changes if c.edit is not None), Habits()
    for change in changes:
        habits = _add_habits(habits, change.habits)
    missing = set(range(len(edits)))
    for example, ndim in examples(rule) if edits else ():
        _, applied = _apply_edits(rule, key_of(example, ndim), edits)
        missing -= {i for i, has_changed in enumerate(applied) if has_changed}
        if not missing:
            break
    if missing:
        raise NotFoundError(f"there is no place for it in {rule.__name__}")
    return Formula(rule, edits, habits)


def _add_habits(habits: Habits, new: tuple[tuple[str, Any], ...]) -> Habits:
    before = {f.name: getattr(habits, f.name) for f in fields(Habits)}
    for name, value in new:
        if before[name] != getattr(Habits(), name) and not isinstance(value, tuple):
            raise NotFoundError(f"two changes of {name} exclude each other")
    return replace(habits, **{n: before[n] + v if isinstance(v, tuple) else v for n, v in new})


def habit(edit: Edit | None = None, *, when: Condition | None = None, **fields: Any) -> RuleChange:
    """Return the change of these fields of :class:`Habits`, and of a rule's graph."""
    return RuleChange(edit, tuple(fields.items()), when)


# Errors that Python's arithmetic raises where NumPy returns inf or NaN.
_NOT_A_NUMBER = (ZeroDivisionError, OverflowError, TypeError, ValueError)


def replay(formula: Formula, scenario: Scenario) -> Trajectory:
    """Return the parameters after every step; NaN from the first step that cannot be computed."""
    return LazyTrajectory(formula, scenario).until(scenario.steps)


@final
class LazyTrajectory:
    """A formula's trajectory through a scenario, computed only as far as needed: most mistakes show in the first steps.

    Attributes:
        divided: for each step, whether a scalar was divided by zero, where Python raises an error and NumPy goes on.
    """

    def __init__(self, formula: Formula, scenario: Scenario) -> None:
        self.scenario = scenario
        self.divided = [False]
        self._rows = np.full((scenario.steps + 1, scenario.start.size), np.nan)
        self._rows[0] = scenario.start
        self._run: FormulaRun | None = None
        try:
            self._run = FormulaRun(formula, scenario)
        except ValueError:  # a mistake makes the settings invalid
            self.divided = [False] * (scenario.steps + 1)

    def until(self, step: int) -> Trajectory:
        """Return the parameters before the first step and after each step up to this one."""
        with np.errstate(all="ignore"):
            while self._run is not None and len(self.divided) <= step:
                number = len(self.divided)
                self._run.divided = False
                self._rows[number] = self._run.step(number, self.scenario.gradients[number - 1])
                self.divided.append(self._run.divided)
        return self._rows[: step + 1]


@final
class _ParameterState:
    """The state of one parameter: slots, scalars and step count."""

    def __init__(self, rule: Rule, value: Values) -> None:
        shape = value.shape
        self.slots: dict[str, Any] = {s.name: np.full(s.shape(shape), s.fill) for s in rule.slots(len(shape))}
        self.scalars = dict(rule.scalars)
        self.count = 0


@final
class FormulaRun:
    """Runs a formula on the parameters of a scenario, step by step."""

    def __init__(self, formula: Formula, scenario: Scenario) -> None:
        self.formula, self.habits, self.scenario = formula, formula.habits, scenario
        first_only = self.habits.first_group
        settings = [scenario.settings_of(0 if first_only else i) for i in range(len(scenario.initial))]
        if self.habits.one_rate and "lr" in scenario.settings:
            settings = [{**own, "lr": scenario.settings["lr"]} for own in settings]
        # Parameters with the same settings share one rule: its constructor checks them, which takes long.
        self.rules = [formula.settings(settings[0])]
        self.rules += [self.rules[0] if own == settings[0] else formula.settings(own) for own in settings[1:]]
        self.joined = self._can_join(settings)
        self.values = [np.array(scenario.start)] if self.joined else [np.array(v) for v in scenario.initial]
        self.states = self._make_states()
        self.steppers = self._make_steppers()
        self.divided = False
        self.calls = self.visits = 0
        self.overwritten: list[Values | None] = [None] * len(self.values)

    def _can_join(self, settings: list[dict[str, Any]]) -> bool:
        """Whether every step does the same with every element, so that all parameters can be computed as one vector."""
        formula, habits, scenario, rule = self.formula, self.habits, self.scenario, self.rules[0]
        if formula.rule.sees != "elements" or any(own != settings[0] for own in settings):
            return False
        if habits.shared or habits.skips_zero or habits.writes_gradient or habits.clock == "visits":
            return False
        if any(g is None for gradients in scenario.gradients for g in gradients):
            return False
        if len({key_of(rule, v.ndim) for v in scenario.initial}) > 1:
            return False
        program = formula.program(rule, scenario.initial[0].ndim) if formula.edits else None
        return program is None or program.elementwise

    def _make_states(self) -> list[_ParameterState]:
        states = [_ParameterState(rule, value) for rule, value in zip(self.rules, self.values)]
        return [states[0]] * len(states) if self.habits.shared else states

    def _make_steppers(self) -> list[FormulaStepper]:
        make = cache(self.formula.stepper)
        return [make(rule, value.ndim) for rule, value in zip(self.rules, self.values)]

    def step(self, number: int, gradients: Gradients) -> Values:
        """Take the step of this number (the first is 1) and return all elements as one vector."""
        habits = self.habits
        if number in self.scenario.rates and not habits.latched and "lr" not in habits.ignores:
            self.rules = [_set_unchecked(rule, lr=self.scenario.rates[number]) for rule in self.rules]
            self.steppers = self._make_steppers()
        if number == self.scenario.reload_at and habits.forgets != "nothing":
            for state, fresh in zip(self.states, self._make_states()):
                if habits.forgets != "steps":
                    state.slots, state.scalars = fresh.slots, fresh.scalars
                if habits.forgets != "slots":
                    state.count = 0
            self.calls = self.visits = self.calls if habits.forgets == "slots" else 0
        self.calls += 1
        if self.joined:
            gradients = (flat(cast("tuple[Values, ...]", gradients)),)
        for i, gradient in enumerate(gradients):
            g = gradient
            if g is None:
                if habits.missing == "ends":
                    break
                if habits.missing == "left":
                    continue
                g = np.zeros_like(self.values[i])
            if habits.skips_zero and not g.any():
                continue
            try:
                self._update(i, np.array(g))
            except _NOT_A_NUMBER:
                self.values[i] = np.full_like(self.values[i], np.nan)
        return flat(self.values)

    def _update(self, i: int, g: Values) -> None:
        habits, rule, state, p = self.habits, self.rules[i], self.states[i], self.values[i]
        if self.scenario.keeps_gradients and self.overwritten[i] is not None:
            g = self.overwritten[i]  # type: ignore[assignment]
        self.visits += 1
        state.count += 1
        number = {"own": state.count, "calls": self.calls, "visits": self.visits}[habits.clock] + habits.offset
        if habits.writes_gradient:
            self.overwritten[i] = self.formula.gradient(rule, p, g, number)
        if not p.size:
            return
        signed = -g if rule.maximize else g
        result = self.steppers[i].step(number, state.count, p, signed, state.slots, state.scalars)
        if np.shape(result.value) != p.shape:
            raise ValueError("a state of another shape")
        self.divided = self.divided or result.divided
        state.slots, state.scalars = result.slots, result.scalars
        self.values[i] = np.asarray(result.value)

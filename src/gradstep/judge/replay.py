"""The reference: a formula in a scenario, in float64; distances between trajectories, and what rounding explains."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from typing import Any, cast, final

import numpy as np

from gradstep.judge.algebra.trace import key_of
from gradstep.judge.formula import Formula, FormulaStepper
from gradstep.judge.scenario import Gradients, Scenario, Trajectory, Values, flat
from gradstep.rules import Rule

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


def _with_rate(rule: Rule, lr: float) -> Rule:
    """Return the rule with another learning rate, even if a mistake has put its settings out of bounds."""
    changed = copy(rule)
    object.__setattr__(changed, "lr", lr)
    return changed


@final
class _ParameterState:
    """The state of one parameter: slots, scalars and step count."""

    def __init__(self, rule: Rule, value: Values) -> None:
        shape = value.shape
        self.slots: dict[str, Any] = {s.name: np.full(s.shape(shape), s.fill) for s in rule.slots(len(shape))}
        self.scalars = dict(rule.scalars)
        self.count = 0

    def forget(self, what: str, fresh: _ParameterState) -> None:
        if what in ("slots", "all"):
            self.slots, self.scalars = fresh.slots, fresh.scalars
        if what in ("steps", "all"):
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
        steppers: dict[tuple[int, int], FormulaStepper] = {}
        for rule, value in zip(self.rules, self.values):
            key = id(rule), value.ndim
            if key not in steppers:
                steppers[key] = self.formula.stepper(rule, value.ndim)
        return [steppers[id(rule), value.ndim] for rule, value in zip(self.rules, self.values)]

    def step(self, number: int, gradients: Gradients) -> Values:
        """Take the step of this number (the first is 1) and return all elements as one vector."""
        habits = self.habits
        if number in self.scenario.rates and not habits.latched and "lr" not in habits.ignores:
            changed = {id(rule): _with_rate(rule, self.scenario.rates[number]) for rule in self.rules}
            self.rules = [changed[id(rule)] for rule in self.rules]
            self.steppers = self._make_steppers()
        if number == self.scenario.reload_at and habits.forgets != "nothing":
            for state, fresh in zip(self.states, self._make_states()):
                state.forget(habits.forgets, fresh)
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


ROUNDING_BOUNDS = {"float64": 2.0**15, "float32": 2.0, "bfloat16": 4.0}
"""Units in the last place by which a step may be off.

Correct optimizers stay below one unit, unless their formula magnifies rounding: a corrected average kept as the state
loses 1 / (1 − β₂) units, a thousand. In float64 that is far below any mistake; float32 has no such room. Newton–Schulz
iterations in bfloat16 were up to 2.5 units off, where the two addends of a product are rounded each.
"""


def tolerance(dtype: str, steps: int) -> float:
    """Return the largest relative distance that rounding explains after a number of steps.

    Roundings of different steps go up as often as down, so they add up like a random walk.

    Args:
        dtype: the type that the submission computes in, a key of :data:`ROUNDING_BOUNDS`.
        steps: the number of steps, ≥ 0.

    >>> tolerance("float64", 1) < 1e-10, tolerance("float32", 1) < 1e-6
    (True, True)
    """
    eps = 2.0**-7 if dtype == "bfloat16" else float(np.finfo(dtype).eps)
    return ROUNDING_BOUNDS[dtype] * eps * float(np.sqrt(1 + steps))


def coarsest(rule: type[Rule]) -> str:
    """Return the coarsest type that a submission may compute in: products of matrices are usually in bfloat16."""
    return "bfloat16" if rule.sees == "matrix" else "float32"


@final
class ReferenceTrajectory:
    """A trajectory from which the distances of others are measured.

    An element's distance is relative to its largest magnitude plus the length of its path so far, as its rounding is.

    Args:
        trajectory: the parameters at every step, one row for each.
    """

    def __init__(self, trajectory: Trajectory) -> None:
        numbers = np.nan_to_num(trajectory, nan=0.0, posinf=0.0, neginf=0.0)
        with np.errstate(all="ignore"):
            path = np.abs(np.diff(numbers, axis=0, prepend=numbers[:1])).cumsum(axis=0)
            self._measure = np.maximum(np.maximum.accumulate(np.abs(numbers), axis=0) + path, np.finfo(np.float64).tiny)
        self._finite = np.isfinite(trajectory)
        self.trajectory = trajectory

    def distances(self, other: Trajectory) -> Values:
        """Return the relative distance of another trajectory at every step and element; it may end earlier.

        The distance is 0 where neither is finite, and infinite where only one is.
        """
        end = len(other)
        with np.errstate(all="ignore"):
            apart = np.abs(other - self.trajectory[:end]) / self._measure[:end]
        finite = np.isfinite(other)
        same = finite == self._finite[:end]
        return np.where(finite & same, apart, np.where(same, 0.0, np.inf))

    def distance(self, other: Trajectory) -> float:
        """Return the largest of the distances."""
        return float(self.distances(other).max(initial=0.0))


@final
@dataclass(frozen=True)
class Parting:
    """The place where two trajectories begin to differ.

    Attributes:
        scenario: name of the scenario.
        step: number of the first step after which they differ, from 1.
        parameter: index of the parameter, from 0.
        element: index of the element in the parameter.
        before: the element's value before that step, in the true trajectory.
        expected: its value after that step, in the true trajectory.
        got: its value after that step, in the submission.
    """

    scenario: str
    step: int
    parameter: int
    element: tuple[int, ...]
    before: float
    expected: float
    got: float

    def __str__(self) -> str:
        index = ", ".join(map(str, self.element))
        return (
            f"{self.compare_lengths()}; step {self.step}, parameter {self.parameter}, element [{index}]: "
            f"from {self.before:.10g} to {self.expected:.10g} expected, got {self.got:.10g}"
        )

    def compare_lengths(self) -> str:
        """Return in plain words how the element's move differs from the right one.

        >>> Parting("first step", 1, 0, (0,), before=1.0, expected=0.9, got=1.1).compare_lengths()
        'the step goes the wrong way'
        >>> Parting("first step", 1, 0, (0,), before=1.0, expected=0.9, got=0.99).compare_lengths()
        'the step is 0.1 times as long as it should be'
        """
        moved, right = self.got - self.before, self.expected - self.before
        if not np.isfinite(moved):
            return "the new weight is not finite"
        if moved == 0:
            return "the weight does not move"
        if right == 0:
            return "the weight moves and should not"
        ratio = moved / right
        if ratio < 0:
            return "the step goes the wrong way"
        if abs(ratio - 1) < 0.01:
            return f"the step is nearly right: its length is off by {abs(ratio - 1):.1g} of itself"
        return f"the step is {ratio:.3g} times as long as it should be"


def find_parting(scenario: Scenario, expected: Trajectory, got: Trajectory, dtype: str) -> Parting | None:
    """Return the first step at which they differ by more than rounding, with the element that differs most there."""
    apart = ReferenceTrajectory(expected).distances(got)
    wrong = apart > tolerance(dtype, scenario.steps)
    if not wrong.any():
        return None
    step = int(np.argmax(wrong.any(axis=1)))
    column = int(np.argmax(apart[step]))
    parameter, element = scenario.locate(column)
    return Parting(
        scenario.name,
        step,
        parameter,
        element,
        float(expected[max(step - 1, 0), column]),
        float(expected[step, column]),
        float(got[step, column]),
    )

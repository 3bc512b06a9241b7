"""The reference: a formula run through a scenario in float64."""

from __future__ import annotations

from copy import copy
from typing import Any, final

import numpy as np

from gradstep.judge.formula import Formula, Stepper
from gradstep.judge.scenario import Gradients, Scenario, Trajectory, Values, flat
from gradstep.rules import Rule

# What Python's own arithmetic raises where NumPy's would give inf or NaN.
_NOT_A_NUMBER = (ZeroDivisionError, OverflowError, TypeError, ValueError)


def replay(formula: Formula, scenario: Scenario) -> Trajectory:
    """The parameters after every step; NaN from the step on that cannot be computed."""
    return Way(formula, scenario).until(scenario.steps)


@final
class Way:
    """Where a formula goes, computed as far as it is asked for: most mistakes show at the first steps.

    Attributes:
        divided: by step, whether a number was divided by zero on the way: Python raises an error there, and NumPy
            goes on.
    """

    def __init__(self, formula: Formula, scenario: Scenario) -> None:
        self.scenario = scenario
        self.divided = [False]
        self._rows = np.full((scenario.steps + 1, scenario.start.size), np.nan)
        self._rows[0] = scenario.start
        self._run: Run | None = None
        try:
            self._run = Run(formula, scenario)
        except ValueError:  # settings that a mistake makes impossible
            self.divided = [False] * (scenario.steps + 1)

    def until(self, step: int) -> Trajectory:
        """The parameters after every step up to this one."""
        with np.errstate(all="ignore"):
            while self._run is not None and len(self.divided) <= step:
                number = len(self.divided)
                self._run.divided = False
                self._rows[number] = self._run.step(number, self.scenario.gradients[number - 1])
                self.divided.append(self._run.divided)
        return self._rows[: step + 1]


def _at_rate(rule: Rule, lr: float) -> Rule:
    """The rule with another learning rate, also where a mistake has put its settings out of bounds."""
    made = copy(rule)
    object.__setattr__(made, "lr", lr)
    return made


@final
class _Memory:
    """What is kept of one parameter between steps."""

    def __init__(self, rule: Rule, value: Values) -> None:
        shape = value.shape
        self.slots: dict[str, Any] = {s.name: np.full(s.shape(shape), s.fill) for s in rule.slots(len(shape))}
        self.scalars = dict(rule.scalars)
        self.count = 0

    def forget(self, what: str, fresh: _Memory) -> None:
        if what in ("slots", "all"):
            self.slots, self.scalars = fresh.slots, fresh.scalars
        if what in ("steps", "all"):
            self.count = 0


@final
class Run:
    """A formula at work on the parameters of a scenario, step by step."""

    def __init__(self, formula: Formula, scenario: Scenario) -> None:
        self.formula, self.habits, self.scenario = formula, formula.habits, scenario
        first_only = self.habits.first_group
        given = [scenario.settings_of(0 if first_only else i) for i in range(len(scenario.initial))]
        if self.habits.one_rate and "lr" in scenario.settings:
            given = [{**own, "lr": scenario.settings["lr"]} for own in given]
        self.rules = [formula.settings(own) for own in given]
        self.values = [np.array(v) for v in scenario.initial]
        self.memories = self._memories()
        self.steppers = self._steppers()
        self.divided = False
        self.calls = self.visits = 0
        self.left_over: list[Values | None] = [None] * len(self.values)

    def _memories(self) -> list[_Memory]:
        each = [_Memory(rule, value) for rule, value in zip(self.rules, self.values)]
        return [each[0]] * len(each) if self.habits.shared else each

    def _steppers(self) -> list[Stepper]:
        return [self.formula.stepper(rule, value.ndim) for rule, value in zip(self.rules, self.values)]

    def step(self, number: int, gradients: Gradients) -> Values:
        """All elements after the step of that number."""
        habits = self.habits
        if number in self.scenario.rates and not habits.latched and "lr" not in habits.ignores:
            self.rules = [_at_rate(rule, self.scenario.rates[number]) for rule in self.rules]
            self.steppers = self._steppers()
        if number == self.scenario.reload_at and habits.forgets != "nothing":
            for memory, fresh in zip(self.memories, self._memories()):
                memory.forget(habits.forgets, fresh)
            self.calls = self.visits = self.calls if habits.forgets == "slots" else 0
        self.calls += 1
        for i, given in enumerate(gradients):
            g = given
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
        habits, rule, memory, p = self.habits, self.rules[i], self.memories[i], self.values[i]
        if self.scenario.kept and self.left_over[i] is not None:
            g = self.left_over[i]  # type: ignore[assignment]
        self.visits += 1
        memory.count += 1
        number = {"own": memory.count, "calls": self.calls, "visits": self.visits}[habits.clock] + habits.offset
        if habits.writes_gradient:
            self.left_over[i] = self.formula.gradient(rule, p, g, number)
        if not p.size:
            return
        signed = -g if rule.maximize else g
        made = self.steppers[i].step(number, memory.count, p, signed, memory.slots, memory.scalars)
        if np.shape(made.value) != p.shape:
            raise ValueError("a state of another shape")
        self.divided = self.divided or made.divided
        memory.slots, memory.scalars = made.slots, made.scalars
        self.values[i] = np.asarray(made.value)

"""The reference: a formula run through a scenario in float64."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, final

import numpy as np

from gradstep.judge.formula import Formula
from gradstep.judge.scenario import Gradients, Scenario, Trajectory, Values, flat
from gradstep.rules import Rule, State

# What Python's own arithmetic raises where NumPy's would give inf or NaN.
_NOT_A_NUMBER = (ZeroDivisionError, OverflowError, TypeError, ValueError)


def replay(formula: Formula, scenario: Scenario) -> Trajectory:
    """The parameters after every step; NaN from the step on that cannot be computed."""
    rows = np.full((scenario.steps + 1, scenario.start.size), np.nan)
    rows[0] = scenario.start
    try:
        run = Run(formula, scenario)
    except ValueError:  # settings that a mistake makes impossible, as Nesterov's step without a momentum
        return rows
    with np.errstate(all="ignore"):
        for step, gradients in enumerate(scenario.gradients, 1):
            rows[step] = run.step(step, gradients)
    return rows


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
        self.rules = [
            formula.settings(scenario.settings_of(0 if first_only else i)) for i in range(len(scenario.initial))
        ]
        self.values = [np.array(v) for v in scenario.initial]
        self.memories = self._memories()
        self.calls = self.visits = 0
        self.left_over: list[Values | None] = [None] * len(self.values)

    def _memories(self) -> list[_Memory]:
        each = [_Memory(rule, value) for rule, value in zip(self.rules, self.values)]
        return [each[0]] * len(each) if self.habits.shared else each

    def step(self, number: int, gradients: Gradients) -> Values:
        """All elements after the step of that number."""
        habits = self.habits
        if number in self.scenario.rates and not habits.latched and "lr" not in habits.ignores:
            self.rules = [replace(rule, lr=self.scenario.rates[number]) for rule in self.rules]  # type: ignore[call-arg]
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
        numbers = self.formula.coefficients(rule, number, **memory.scalars)
        c = SimpleNamespace(**numbers, rule=rule, step=number)
        if any(isinstance(x, complex) for x in numbers.values()):
            raise ValueError("the root of a negative number")
        state = State(**memory.slots)
        new = self.formula.update(p, -g if rule.maximize else g, state, c) if p.size else p
        if np.shape(new) != p.shape:
            raise ValueError("a state of another shape")
        if habits.writes_gradient:
            self.left_over[i] = g + c.l2 * p
        for name in memory.slots:
            if name not in habits.unstored and "*" not in habits.unstored:
                memory.slots[name] = vars(state)[name]
        memory.scalars = {name: numbers[name] for name in memory.scalars}
        if "p" not in habits.unstored:
            self.values[i] = np.asarray(new)

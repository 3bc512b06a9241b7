"""Distances between trajectories, and the distance that rounding explains."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from gradstep.judge.scenario import Scenario, Trajectory, Values

ROUNDINGS = {"float64": 2.0**15, "float32": 2.0}
"""Units in the last place by which a step may be off.

Correct optimizers stay below one unit, unless their formula magnifies rounding: a corrected average kept as the state
loses 1 / (1 − β₂) units, a thousand. In float64 that is far below any mistake; float32 has no such room.
"""


def tolerance(dtype: str, steps: int) -> float:
    """Return the largest relative distance that rounding explains after a number of steps.

    Roundings of different steps go up as often as down, so they add up like a random walk.

    Args:
        dtype: the type that the submission computes in, a key of :data:`ROUNDINGS`.
        steps: the number of steps, ≥ 0.

    >>> tolerance("float64", 1) < 1e-10, tolerance("float32", 1) < 1e-6
    (True, True)
    """
    return ROUNDINGS[dtype] * float(np.finfo(dtype).eps) * float(np.sqrt(1 + steps))


@final
class Reference:
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
    apart = Reference(expected).distances(got)
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

"""How far two trajectories are apart, and how far they may be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from gradstep.judge.scenario import Scenario, Trajectory, Values

ROUNDINGS = {"float64": 2.0**15, "float32": 2.0}
"""Units in the last place that a step may be off by.

Correct optimizers stay below one unit, unless they write a formula in a form that magnifies rounding: a corrected
average kept as such loses 1 / (1 − β₂) of them, a thousand. In float64 that is far below any mistake; in float32 there
is no such room.
"""


def tolerance(dtype: str, steps: int) -> float:
    """The largest relative distance that rounding explains.

    Roundings of different steps are as often up as down, so they add up like a random walk.

    >>> tolerance("float64", 1) < 1e-10, tolerance("float32", 1) < 1e-6
    (True, True)
    """
    return ROUNDINGS[dtype] * float(np.finfo(dtype).eps) * float(np.sqrt(1 + steps))


@final
class Reference:
    """A trajectory that others are measured against.

    An element's measure is its size plus the length of its way so far: what rounding is relative to.
    """

    def __init__(self, trajectory: Trajectory) -> None:
        known = np.nan_to_num(trajectory, nan=0.0, posinf=0.0, neginf=0.0)
        with np.errstate(all="ignore"):
            way = np.abs(np.diff(known, axis=0, prepend=known[:1])).cumsum(axis=0)
            self._measure = np.maximum(np.maximum.accumulate(np.abs(known), axis=0) + way, np.finfo(np.float64).tiny)
        self._finite = np.isfinite(trajectory)
        self.trajectory = trajectory

    def distances(self, other: Trajectory) -> Values:
        """How far another is away at every step and element, relative to the measure; it may end earlier.

        Where both are not finite the distance is 0, where one is, infinite.
        """
        end = len(other)
        with np.errstate(all="ignore"):
            apart = np.abs(other - self.trajectory[:end]) / self._measure[:end]
        finite = np.isfinite(other)
        same = finite == self._finite[:end]
        return np.where(finite & same, apart, np.where(same, 0.0, np.inf))

    def distance(self, other: Trajectory) -> float:
        """The largest of the distances."""
        return float(self.distances(other).max(initial=0.0))


def distances(one: Trajectory, other: Trajectory) -> Values:
    """The distance of a trajectory from another at every step and element, relative to how far the other has come."""
    return Reference(other).distances(one)


def distance(one: Trajectory, other: Trajectory) -> float:
    """The largest of the distances."""
    return Reference(other).distance(one)


@final
@dataclass(frozen=True)
class Parting:
    """Where two trajectories part company.

    Attributes:
        scenario: its name.
        step: the first step after which they differ; the first step is 1.
        parameter: its number, from 0.
        element: its index in the parameter.
        before: its value before that step, in the true trajectory.
        expected: its value after it.
        got: the submission's.
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
            f"step {self.step}, parameter {self.parameter}, element [{index}]: "
            f"from {self.before:.10g} to {self.expected:.10g} expected, got {self.got:.10g}"
        )


def parting(scenario: Scenario, expected: Trajectory, got: Trajectory, dtype: str) -> Parting | None:
    """The first step at which they differ by more than rounding, and there the element that differs most."""
    apart = distances(got, expected)
    wrong = apart > tolerance(dtype, scenario.steps)
    if not wrong.any():
        return None
    step = int(np.argmax(wrong.any(axis=1)))
    column = int(np.argmax(apart[step]))
    parameter, element = scenario.place(column)
    return Parting(
        scenario.name,
        step,
        parameter,
        element,
        float(expected[max(step - 1, 0), column]),
        float(expected[step, column]),
        float(got[step, column]),
    )

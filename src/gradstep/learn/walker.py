"""A rule at work on one array, step by step, in plain NumPy: the rule's own lines and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gradstep.rules import Rule, State

Change = Callable[[dict[str, float]], dict[str, float]]


@final
class Walker:
    """One parameter, its state and its rule.

    Args:
        rule: what is computed; may be replaced between steps, as by a schedule.
        start: the parameter before the first step.
        dtype: what is computed in.
        change: applied to each step's coefficients, to see what one of them is good for.

    >>> from gradstep.rules import SGD
    >>> walker = Walker(SGD(lr=0.1), [5.0])
    >>> walker.step(2 * walker.p)
    >>> walker.p
    array([4.])
    """

    def __init__(
        self, rule: Rule, start: ArrayLike, dtype: str = "float64", change: Change = lambda coefficients: coefficients
    ) -> None:
        self.rule, self.change = rule, change
        self.p: NDArray[Any] = np.array(start, dtype=dtype)
        self.steps = 0
        self.state = self.fresh()

    def fresh(self) -> State:
        """The state before a first step."""
        slots = self.rule.slots(self.p.ndim)
        return State(**{s.name: np.full(s.shape(self.p.shape), s.fill, self.p.dtype) for s in slots})

    def step(self, gradient: NDArray[Any]) -> None:
        """One update along a gradient."""
        self.steps += 1
        coefficients = SimpleNamespace(**self.change(self.rule.coefficients(self.steps)))
        self.p = self.rule.update(self.p, gradient, self.state, coefficients)

"""Run a rule on one array in plain NumPy, step by step."""

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
        rule: the rule; may be replaced between steps, as by a schedule.
        start: the parameter before the first step, of any shape.
        dtype: the type of the arithmetic.
        change: changes each step's coefficients, to show the effect of one of them.

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
        """Return the state before a first step."""
        slots = self.rule.slots(self.p.ndim)
        return State(**{s.name: np.full(s.shape(self.p.shape), s.fill, self.p.dtype) for s in slots})

    def step(self, gradient: NDArray[Any]) -> None:
        """Take one update along a gradient of the parameter's shape."""
        self.steps += 1
        coefficients = SimpleNamespace(**self.change(self.rule.coefficients(self.steps)))
        self.p = self.rule.update(self.p, gradient, self.state, coefficients)

"""An experiment: a rule on one array in plain NumPy, figures in words, and a picture of them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gradstep.report import Picture
from gradstep.rules import Rule, State

SettingsChange = Callable[[dict[str, float]], dict[str, float]]


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
        self,
        rule: Rule,
        start: ArrayLike,
        dtype: str = "float64",
        change: SettingsChange = lambda coefficients: coefficients,
    ) -> None:
        self.rule, self.change = rule, change
        self.p: NDArray[Any] = np.array(start, dtype=dtype)
        self.steps = 0
        self.state = self.fresh()

    def fresh(self) -> State:
        """Return the state before a first step."""
        slots = self.rule.slots(self.p.ndim)
        return State(**{s.name: np.full(s.shape(self.p.shape), s.fill, self.p.dtype) for s in slots})

    def walk(self, gradient: Callable[[NDArray[Any]], NDArray[Any]], steps: int) -> NDArray[Any]:
        """Take steps along the gradient of each place; return the places before and after, (steps + 1, *p.shape)."""
        places = [self.p]
        for _ in range(steps):
            self.step(gradient(self.p))
            places.append(self.p)
        return np.array(places)

    def step(self, gradient: NDArray[Any]) -> None:
        """Take one update along a gradient of the parameter's shape."""
        self.steps += 1
        coefficients = SimpleNamespace(**self.change(self.rule.coefficients(self.steps)))
        self.p = self.rule.update(self.p, gradient, self.state, coefficients)


RULE_COLOURS = {
    "SGD": "black",
    "SGD with momentum": "magenta",
    "RMSprop": "green",
    "Adam": "blue",
    "AdamW": "vermilion",
    "Lion": "amber",
    "Adafactor": "pink",
}
"""The colour of each optimizer, the same in every picture."""


@final
@dataclass(frozen=True)
class Conclusion:
    """The result of an experiment: its figures in words and as a picture."""

    lines: tuple[str, ...]
    picture: Picture

    def _repr_svg_(self) -> str:
        """Return the picture for a notebook."""
        return self.picture.file()

    def save(self, file: Path) -> Path:
        """Write the picture to a file, .svg or .html; make its folder if it is missing."""
        return self.picture.save(file)


@final
@dataclass(frozen=True)
class Experiment:
    """An experiment that a learner can run."""

    name: str  # its name on the command line
    title: str  # a few words
    question: str  # what to think about before looking at the result
    run: Callable[[], Conclusion]  # computes everything and returns the finding

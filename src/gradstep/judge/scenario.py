"""A small piece of training, given to the last bit: what a submission and the reference are both put through."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeAlias, final

import numpy as np
from numpy.typing import NDArray

Values: TypeAlias = NDArray[np.float64]
Gradients: TypeAlias = tuple["Values | None", ...]

Trajectory: TypeAlias = NDArray[np.float64]
"""All elements of all parameters, in a row per step: row 0 before the first. After an error NaN."""


@final
@dataclass(frozen=True, eq=False)
class Scenario:
    """Parameters, their gradients at every step, and what happens in between.

    Attributes:
        name: in one to three words, as the report's table has it.
        shows: what goes wrong here in a wrong optimizer.
        settings: hyperparameters by the rule's names; the others have the rule's defaults.
        initial: the parameters before the first step.
        gradients: per step, a gradient for each parameter or None.
        needs: settings without which the scenario would show nothing; it is left out where they are not offered.
        groups: settings by parameter where they differ; parameters are in one group where they are equal.
        rates: a learning rate set before the step of that number (the first is 1).
        reload_at: before this step, state goes through ``state_dict`` into a new optimizer.
        kept: the gradients of the first step stay in place and are not assigned again.
        strided: parameters are not contiguous in memory.
        defaults: settings are not given to the constructor, except the learning rate.
    """

    name: str
    shows: str
    settings: Mapping[str, Any]
    initial: tuple[Values, ...]
    gradients: tuple[Gradients, ...]
    needs: frozenset[str] = frozenset()
    groups: tuple[Mapping[str, Any], ...] = ()
    rates: Mapping[int, float] = field(default_factory=dict)
    reload_at: int = 0
    kept: bool = False
    strided: bool = False
    defaults: bool = False

    @property
    def steps(self) -> int:
        """How many steps it has."""
        return len(self.gradients)

    def settings_of(self, parameter: int) -> dict[str, Any]:
        """The settings of one parameter before any change of the rate."""
        return {**self.settings, **(self.groups[parameter] if self.groups else {})}

    @cached_property
    def start(self) -> Values:
        """Row 0 of the trajectory."""
        return flat(self.initial)

    def place(self, column: int) -> tuple[int, tuple[int, ...]]:
        """Which parameter and which of its elements a column of the trajectory is."""
        for parameter, values in enumerate(self.initial):
            if column < values.size:
                return parameter, tuple(int(i) for i in np.unravel_index(column, values.shape))
            column -= values.size
        raise IndexError(column)


def flat(values: tuple[Values, ...] | list[Values]) -> Values:
    """All elements in a row."""
    return np.concatenate([np.asarray(v, dtype=np.float64).ravel() for v in values])

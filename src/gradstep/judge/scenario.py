"""A scenario: a short training run with fixed numbers, for a submission and for the reference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeAlias, final

import numpy as np
from numpy.typing import NDArray

from gradstep.rules import Rule
from gradstep.rules.settings import shared_settings_of

Values: TypeAlias = NDArray[np.float64]
Gradients: TypeAlias = tuple["Values | None", ...]

Trajectory: TypeAlias = NDArray[np.float64]
"""Array of shape (steps + 1, elements of all parameters); row 0 is before the first step. NaN after an error."""


@final
@dataclass(frozen=True, eq=False)
class Scenario:
    """Parameters, their gradients at every step, and events between the steps.

    Attributes:
        name: one to three words, for the report's table.
        shows: which faults it reveals.
        settings: hyperparameters by the rule's names; the others have the rule's defaults.
        initial: the parameters before the first step.
        gradients: per step, a gradient for each parameter or None.
        needs: settings without which the scenario shows nothing; it is skipped if the submission lacks them.
        groups: for each parameter the settings that differ; empty for one group of all parameters.
        rates: learning rates to set, by the number of the step after it (the first is 1).
        reload_at: before this step the state moves through ``state_dict`` into a new optimizer; 0 for never.
        keeps_gradients: the gradients of the first step stay in place and are not assigned again.
        strided: parameters are not contiguous in memory.
        defaults: the constructor receives no settings except the learning rate.
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
    keeps_gradients: bool = False
    strided: bool = False
    defaults: bool = False

    @property
    def steps(self) -> int:
        """Number of steps."""
        return len(self.gradients)

    def settings_of(self, parameter: int) -> dict[str, Any]:
        """Return the settings of one parameter, by its index, before any change of the rate."""
        return {**self.settings, **(self.groups[parameter] if self.groups else {})}

    @cached_property
    def start(self) -> Values:
        """Row 0 of the trajectory."""
        return flat(self.initial)

    def locate(self, column: int) -> tuple[int, tuple[int, ...]]:
        """Return the parameter and the index of its element that a column of the trajectory holds."""
        for parameter, values in enumerate(self.initial):
            if column < values.size:
                return parameter, tuple(int(i) for i in np.unravel_index(column, values.shape))
            column -= values.size
        raise IndexError(column)


def flat(values: tuple[Values, ...] | list[Values]) -> Values:
    """Return all elements of all arrays as one float64 vector."""
    return np.concatenate([np.asarray(v, dtype=np.float64).ravel() for v in values])


def shared_defaults(rule: type[Rule]) -> dict[str, Any]:
    """Return the defaults of the settings that the rule shares with torch's class of the same name, by name."""
    return {setting.name: setting.default for setting in shared_settings_of(rule)}

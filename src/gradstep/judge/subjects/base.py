"""The interface of submissions: they take a rule's settings, and step parameters along gradients."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

from gradstep.judge.scenario import Gradients, Scenario, Values
from gradstep.judge.subjects.arguments import Arguments

Kind: TypeAlias = Literal["torch", "numpy", "function", "update"]


class NotOfferedError(Exception):
    """The submission has no such setting or ability; scenarios that need it are skipped."""


class SubmissionError(Exception):
    """The submission breaks the interface; the message says what it did and what is expected."""


def array_for(values: Values, dtype: str, *, tensors: bool) -> Any:
    """Return a copy of the values as a submission receives them: a NumPy array, or a tensor of torch.

    >>> array_for(np.array([1.0, 2.0]), "float32", tensors=False)
    array([1., 2.], dtype=float32)
    """
    array = np.array(values, dtype=dtype)
    if not tensors:
        return array
    import torch

    return torch.from_numpy(array)


class Session(ABC):
    """One optimizer with the parameters of one scenario."""

    @abstractmethod
    def step(self, gradients: Gradients | None) -> None:
        """Take one step along these gradients; None leaves the last step's gradients in place."""

    @abstractmethod
    def values(self) -> list[Values]:
        """Return the current parameters, float64 arrays."""

    @abstractmethod
    def set_rate(self, lr: float) -> None:
        """Set the learning rate as a schedule does."""

    @abstractmethod
    def reload(self) -> None:
        """Save the state and load it into a new optimizer of the same parameters."""


@dataclass(frozen=True)
class Subject(ABC):
    """A submission of one form.

    Attributes:
        make: the class, factory or function.
        arguments: the settings it takes.
        extra: arguments that are no settings of the rule; it always receives them.
    """

    make: Any
    arguments: Arguments
    extra: dict[str, Any]

    @property
    @abstractmethod
    def kind(self) -> Kind:
        """Its form."""

    @property
    @abstractmethod
    def abilities(self) -> frozenset[str]:
        """Those of ``groups``, ``reload`` and ``rates`` that this form can have."""

    @abstractmethod
    def start(self, scenario: Scenario, dtype: str) -> Session:
        """Make an optimizer over the scenario's parameters, in a dtype by its name."""

    def keywords(self, scenario: Scenario) -> dict[str, Any]:
        """Return the settings of the scenario as this submission's own arguments."""
        return {**self.arguments.named(scenario.settings), **self.extra}

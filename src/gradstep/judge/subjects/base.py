"""The interface: something that takes a rule's settings, and steps parameters along gradients."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

from gradstep.judge.scenario import Gradients, Scenario, Values
from gradstep.judge.subjects.arguments import Arguments

Kind: TypeAlias = Literal["torch", "numpy", "function", "update"]


class NotOfferedError(Exception):
    """The submission has no such setting or ability: a scenario that needs it is left out."""


class SubmissionError(Exception):
    """The submission breaks the interface itself: what it did, what is expected."""


def array_for(values: Values, dtype: str, *, tensors: bool) -> Any:
    """A copy of values as a submission gets them: a NumPy array, or a tensor of torch.

    >>> array_for(np.array([1.0, 2.0]), "float32", tensors=False)
    array([1., 2.], dtype=float32)
    """
    made = np.array(values, dtype=dtype)
    if not tensors:
        return made
    import torch

    return torch.from_numpy(made)


class Session(ABC):
    """One optimizer at work on the parameters of one scenario."""

    @abstractmethod
    def step(self, gradients: Gradients | None) -> None:
        """One step along these gradients, or along those that are there already."""

    @abstractmethod
    def values(self) -> list[Values]:
        """The parameters as they are now."""

    @abstractmethod
    def set_rate(self, lr: float) -> None:
        """Another learning rate, as a schedule sets it."""

    @abstractmethod
    def reload(self) -> None:
        """State saved and loaded into a new optimizer of the same parameters."""


@dataclass(frozen=True)
class Subject(ABC):
    """A submission with its form known.

    Attributes:
        make: the class, factory or function.
        arguments: the settings it takes.
        extra: arguments outside the rule, given to it always.
    """

    make: Any
    arguments: Arguments
    extra: dict[str, Any]

    @property
    @abstractmethod
    def kind(self) -> Kind:
        """Which form it has."""

    @property
    @abstractmethod
    def abilities(self) -> frozenset[str]:
        """Which of ``groups``, ``reload``, ``rates`` it can be expected to have."""

    @abstractmethod
    def start(self, scenario: Scenario, dtype: str) -> Session:
        """An optimizer over the scenario's parameters."""

    def keywords(self, scenario: Scenario) -> dict[str, Any]:
        """The settings of the scenario as this submission's own arguments."""
        return {**self.arguments.named(scenario.settings), **self.extra}


class HoldingSession(Session):
    """A session that holds the parameters itself, and hands them to a submission that keeps none.

    Attributes:
        params: the parameters, as the submission gets them.
        settings: the submission's own arguments, for each parameter.
    """

    def __init__(self, subject: Subject, scenario: Scenario, dtype: str, *, tensors: bool) -> None:
        self._dtype, self._tensors = dtype, tensors
        self._gradients: Gradients = ()
        self._named = subject.arguments.named
        self.params = [self._array(values) for values in scenario.initial]
        own = [self._named(group) for group in scenario.groups] or [{} for _ in self.params]
        self.settings = [subject.keywords(scenario) | each for each in own]

    def step(self, gradients: Gradients | None) -> None:
        self._gradients = self._gradients if gradients is None else gradients
        self._step([None if g is None else self._array(g) for g in self._gradients])

    @abstractmethod
    def _step(self, gradients: list[Any]) -> None:
        """One step along these arrays, None for a parameter without a gradient."""

    def values(self) -> list[Values]:
        return [np.array(p, dtype=np.float64) for p in self.params]

    def set_rate(self, lr: float) -> None:
        for settings in self.settings:
            settings |= self._named({"lr": lr})

    def reload(self) -> None:
        raise NotOfferedError("a function keeps no state of its own")

    def _array(self, values: Values) -> Any:
        return array_for(values, self._dtype, tensors=self._tensors)

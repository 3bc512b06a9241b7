"""Pure functions: ``(p, g, state, step) -> (p, state)``, in NumPy or torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import numpy as np

from gradstep.judge.scenario import Gradients, Scenario, Values
from gradstep.judge.subjects.base import (
    Kind,
    NotOfferedError,
    Session,
    Subject,
    SubmissionError,
    array_for,
)


@final
@dataclass(frozen=True)
class FunctionSubject(Subject):
    """Called once per parameter and step, with ``{}`` as the first state and 1 as the first step.

    Attributes:
        tensors: it works on torch's tensors.
    """

    tensors: bool = False

    @property
    def kind(self) -> Kind:
        return "function"

    @property
    def abilities(self) -> frozenset[str]:
        return frozenset({"rates", "groups"})

    def start(self, scenario: Scenario, dtype: str) -> Session:
        return _FunctionSession(self, scenario, dtype)


@final
class _FunctionSession(Session):
    def __init__(self, subject: FunctionSubject, scenario: Scenario, dtype: str) -> None:
        self.subject, self.dtype = subject, dtype
        self.params = [array_for(v, dtype, tensors=subject.tensors) for v in scenario.initial]
        self.states: list[Any] = [{} for _ in self.params]
        self.counts = [0] * len(self.params)
        self.gradients: Gradients = ()
        named = subject.arguments.named
        self.settings = [
            subject.keywords(scenario) | (named(scenario.groups[i]) if scenario.groups else {})
            for i in range(len(self.params))
        ]

    def step(self, gradients: Gradients | None) -> None:
        self.gradients = self.gradients if gradients is None else gradients
        for i, g in enumerate(self.gradients):
            if g is None:
                continue
            self.counts[i] += 1
            gradient = array_for(g, self.dtype, tensors=self.subject.tensors)
            result = self.subject.make(self.params[i], gradient, self.states[i], self.counts[i], **self.settings[i])
            if not isinstance(result, tuple) or len(result) != 2:
                raise SubmissionError(f"it must return (p, state), but returned {type(result).__name__}")
            self.params[i], self.states[i] = result

    def values(self) -> list[Values]:
        return [np.array(p, dtype=np.float64) for p in self.params]

    def set_rate(self, lr: float) -> None:
        for settings in self.settings:
            settings |= self.subject.arguments.named({"lr": lr})

    def reload(self) -> None:
        raise NotOfferedError("a function keeps no state of its own")

"""Pure functions: ``(p, g, state, step) -> (p, state)``, in NumPy or torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

from gradstep.judge.scenario import Scenario
from gradstep.judge.subjects.base import (
    HoldingSession,
    Kind,
    Session,
    Subject,
    SubmissionError,
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
        return _FunctionSession(self, scenario, dtype, tensors=self.tensors)


@final
class _FunctionSession(HoldingSession):
    def __init__(self, subject: FunctionSubject, scenario: Scenario, dtype: str, *, tensors: bool) -> None:
        super().__init__(subject, scenario, dtype, tensors=tensors)
        self._call = subject.make
        self._states: list[Any] = [{} for _ in self.params]
        self._counts = [0] * len(self.params)

    def _step(self, gradients: list[Any]) -> None:
        for i, g in enumerate(gradients):
            if g is None:
                continue
            self._counts[i] += 1
            result = self._call(self.params[i], g, self._states[i], self._counts[i], **self.settings[i])
            if not isinstance(result, tuple) or len(result) != 2:
                raise SubmissionError(f"it must return (p, state), but returned {type(result).__name__}")
            self.params[i], self._states[i] = result

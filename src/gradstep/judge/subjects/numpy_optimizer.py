"""NumPy optimizers: a class over objects with ``.data`` and ``.grad``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from gradstep.judge.scenario import Gradients, Scenario, Values
from gradstep.judge.subjects.base import Kind, NotOfferedError, Session, Subject


@final
class Gradient(np.ndarray):
    """An array whose ``.data`` is the array too, for frameworks whose gradients are tensors themselves."""

    @property
    def data(self) -> Any:
        return self.view(np.ndarray)


@final
class Parameter:
    """The least that a NumPy optimizer asks of a parameter: values, a gradient or None."""

    def __init__(self, data: Values) -> None:
        self.data: Any = data
        self.grad: Any = None
        self.requires_grad = True

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the values."""
        return np.shape(self.data)

    def zero_grad(self) -> None:
        """The gradient taken away."""
        self.grad = None


@final
@dataclass(frozen=True)
class NumpySubject(Subject):
    """Called as ``make(params, **settings)``; steps by ``step()``.

    Attributes:
        parameter: makes a parameter of an array; the framework's own class, where the optimizer insists on it.
    """

    parameter: Callable[[Values], Any] = Parameter

    @property
    def kind(self) -> Kind:
        return "numpy"

    @property
    def abilities(self) -> frozenset[str]:
        return frozenset({"rates"})

    def start(self, scenario: Scenario, dtype: str) -> Session:
        return _NumpySession(self, scenario, dtype)


@final
class _NumpySession(Session):
    def __init__(self, subject: NumpySubject, scenario: Scenario, dtype: str) -> None:
        self.subject, self.dtype = subject, dtype
        self.params = [subject.parameter(np.array(v, dtype=dtype)) for v in scenario.initial]
        self.optimizer = subject.make(self.params, **subject.keywords(scenario))

    def step(self, gradients: Gradients | None) -> None:
        for param, g in zip(self.params, gradients or ()):
            param.grad = None if g is None else np.array(g, dtype=self.dtype).view(Gradient)
        self.optimizer.step()

    def values(self) -> list[Values]:
        return [np.array(p.data, dtype=np.float64) for p in self.params]

    def set_rate(self, lr: float) -> None:
        (name,) = self.subject.arguments.names["lr"]
        if name not in vars(self.optimizer):
            raise NotOfferedError(f"the optimizer has no attribute {name!r}")
        setattr(self.optimizer, name, lr)

    def reload(self) -> None:
        raise NotOfferedError("a NumPy optimizer has no state_dict")

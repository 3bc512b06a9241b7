"""NumPy optimizers: a class over objects with ``.data`` and ``.grad``."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
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
        return frozenset({"rates", "reload"})

    def start(self, scenario: Scenario, dtype: str) -> Session:
        return _NumpySession(self, scenario, dtype)


@final
class _NumpySession(Session):
    def __init__(self, subject: NumpySubject, scenario: Scenario, dtype: str) -> None:
        self.subject, self.scenario, self.dtype = subject, scenario, dtype
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
        if name not in dir(self.optimizer):
            raise NotOfferedError(f"the optimizer has no attribute {name!r}")
        setattr(self.optimizer, name, lr)

    def reload(self) -> None:
        self.params = [self.subject.parameter(np.array(p.data)) for p in self.params]
        made = self.subject.make(self.params, **self.subject.keywords(self.scenario))
        resume(made, self.optimizer)
        self.optimizer = made


COUNTERS = ("step_count", "update_counts")
"""Attributes that a teaching framework's optimizer counts in, beside its buffers."""


def buffers_of(optimizer: Any) -> Any:
    """What the teaching framework's interface gives of the state.

    Raises:
        NotOfferedError: it has no such interface.
    """
    if {"get_momentum_state", "set_momentum_state"} - set(dir(optimizer)):
        raise NotOfferedError("it has no get_momentum_state and set_momentum_state")
    return optimizer.get_momentum_state()


def resume(optimizer: Any, of: Any) -> None:
    """Put the state of one optimizer into another: by ``state_dict`` where it has that, else its buffers and counters.

    Raises:
        NotOfferedError: it has neither.
    """
    if {"state_dict", "load_state_dict"} <= set(dir(of)):
        optimizer.load_state_dict(deepcopy(of.state_dict()))
        return
    buffers = deepcopy(buffers_of(of))
    optimizer.set_momentum_state(buffers)
    for name in COUNTERS:
        if name in vars(of):
            setattr(optimizer, name, deepcopy(vars(of)[name]))

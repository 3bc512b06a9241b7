"""NumPy optimizers: a class over objects with ``.data`` and ``.grad``."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, ClassVar, final

import numpy as np

from gradstep.judge.scenario import Gradients, Scenario, Values
from gradstep.judge.subjects.base import Kind, NotOfferedError, Session, Subject


@final
class Gradient(np.ndarray):
    """An array whose ``.data`` is the array itself, for frameworks in which gradients are tensors."""

    @property
    def data(self) -> Any:
        return self.view(np.ndarray)


@final
class Parameter:
    """The least that a NumPy optimizer needs of a parameter: values, and a gradient or None."""

    def __init__(self, data: Values) -> None:
        self.data: Any = data
        self.grad: Any = None
        self.requires_grad = True

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the values."""
        return np.shape(self.data)

    def zero_grad(self) -> None:
        """Remove the gradient."""
        self.grad = None


@final
@dataclass(frozen=True)
class NumpySubject(Subject):
    """A class called as ``make(params, **settings)``, which steps by ``step()``.

    Attributes:
        parameter: makes a parameter from an array; the framework's own class if the optimizer needs it.
    """

    parameter: Callable[[Values], Any] = Parameter

    kind: ClassVar[Kind] = "numpy"

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
        before, self.optimizer = self.optimizer, self.subject.make(self.params, **self.subject.keywords(self.scenario))
        copy_state(before, self.optimizer)


COUNTERS = ("step_count", "update_counts")
"""Attributes in which a teaching framework's optimizer counts its steps, beside its buffers."""


def get_buffers(optimizer: Any) -> Any:
    """Return the state as the teaching framework's ``get_momentum_state`` does.

    Raises:
        NotOfferedError: it has no such interface.
    """
    if {"get_momentum_state", "set_momentum_state"} - set(dir(optimizer)):
        raise NotOfferedError("it has no get_momentum_state and set_momentum_state")
    return optimizer.get_momentum_state()


def copy_state(source: Any, target: Any) -> None:
    """Copy the state of one optimizer into another: by ``state_dict`` if it has one, else its buffers and counters.

    Raises:
        NotOfferedError: it has neither.
    """
    if {"state_dict", "load_state_dict"} <= set(dir(source)):
        target.load_state_dict(deepcopy(source.state_dict()))
        return
    buffers = deepcopy(get_buffers(source))
    target.set_momentum_state(buffers)
    for name in COUNTERS:
        if name in vars(source):
            setattr(target, name, deepcopy(vars(source)[name]))

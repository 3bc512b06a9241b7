"""NumPy optimizers: a class over objects with ``.data`` and ``.grad``; and properties of them and of functions."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, ClassVar, final

import numpy as np

from gradstep.judge.properties import Context, as_property
from gradstep.judge.scenario import Gradients, Scenario, Values
from gradstep.judge.subjects.base import Kind, NotOfferedError, Session, Subject, array_for
from gradstep.judge.subjects.functions import FunctionSubject


@final
class Gradient(np.ndarray):
    """An array whose ``.data`` is the array itself, for frameworks in which gradients are tensors."""

    @property
    def data(self) -> Any:
        return self.view(np.ndarray)


@final
class BareParameter:
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

    parameter: Callable[[Values], Any] = BareParameter

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


def _make_optimizer(context: Context, dtype: str) -> tuple[Any, list[Any]]:
    """Return an optimizer over two parameters of shape (2, 3), and the parameters."""
    assert isinstance(context.subject, NumpySubject), "these are its properties"
    values = np.linspace(-1, 1.5, 6, dtype=dtype).reshape(2, 3)
    params = [context.subject.parameter(values.copy()) for _ in range(2)]
    return context.make(params), params


@as_property("gradient untouched", "p.grad belongs to the caller", "`grad += ...`, `grad *= ...`")
def _gradient(context: Context) -> str:
    optimizer, params = _make_optimizer(context, "float64")
    for _ in range(2):
        grads = [np.linspace(-2, 3, 6).reshape(2, 3).view(Gradient) for _ in params]
        copies = [g.copy() for g in grads]
        for p, g in zip(params, grads):
            p.grad = g
        optimizer.step()
        if not all(np.array_equal(g, c) for g, c in zip(grads, copies)):
            return "the numbers in p.grad change during the step"
    return ""


@as_property(
    "float32 kept", "a float32 parameter stays float32", "Python floats keep an array's type; `np.float64` does not"
)
def _dtype(context: Context) -> str:
    optimizer, params = _make_optimizer(context, "float32")
    for p in params:
        p.grad = np.ones((2, 3), dtype=np.float32).view(Gradient)
    optimizer.step()
    kind = np.asarray(params[0].data).dtype
    return "" if kind == np.float32 else f"a float32 parameter becomes {kind}"


@as_property("no gradients at all", "a step before any backward", "`if p.grad is None: continue`")
def _no_gradients(context: Context) -> str:
    optimizer, params = _make_optimizer(context, "float64")
    before = [np.array(p.data) for p in params]
    optimizer.step()
    return "" if all(np.array_equal(p.data, b) for p, b in zip(params, before)) else "parameters without gradient move"


def _take_two_steps(context: Context) -> tuple[Any, list[Any]]:
    """Return an optimizer after two steps, and its parameters."""
    optimizer, params = _make_optimizer(context, "float64")
    for scale in (1.0, -0.5):
        for p in params:
            p.grad = (scale * np.linspace(-2, 3, 6).reshape(2, 3)).view(Gradient)
        optimizer.step()
    return optimizer, params


@as_property("state copied", "get_momentum_state gives copies", "`[b.copy() for b in self.buffers]`")
def _state_copied(context: Context) -> str:
    ends = []
    for spoil in (False, True):
        optimizer, params = _take_two_steps(context)
        state = get_buffers(optimizer)
        if spoil:
            _overwrite(state)
        for p in params:
            p.grad = np.ones((2, 3)).view(Gradient)
        optimizer.step()
        ends.append([np.array(p.data) for p in params])
    same = all(np.array_equal(a, b, equal_nan=True) for a, b in zip(*ends))
    return "" if same else "what get_momentum_state returns is the optimizer's own state, not a copy of it"


def _overwrite(state: Any) -> None:
    for item in state or ():
        for array in item if isinstance(item, (tuple, list)) else (item,):
            if isinstance(array, np.ndarray):
                array[...] = 99.0


@as_property(
    "state refused",
    "a state of other parameters is refused",
    "`if len(state) != len(self.params): raise ValueError` before anything is stored",
    essential=False,
)
def _state_refused(context: Context) -> str:
    optimizer, _ = _take_two_steps(context)
    state = deepcopy(get_buffers(optimizer))
    if not state:
        raise NotOfferedError("it keeps no buffers")
    try:
        optimizer.set_momentum_state(state[:1])
    except Exception:
        return ""
    return "set_momentum_state takes the state of one parameter for two"


@as_property(
    "step count", "step_count counts the steps", "`self.step_count += 1` once, at the end of step()", essential=False
)
def _step_count(context: Context) -> str:
    optimizer, _ = _take_two_steps(context)
    if "step_count" not in dir(optimizer):
        raise NotOfferedError("it has no step_count")
    return "" if optimizer.step_count == 2 else f"step_count is {optimizer.step_count} after two steps"


@as_property("pure", "the inputs are left alone", "`p -= ...`, `g *= ...`: take `p = p - ...`")
def _pure(context: Context) -> str:
    subject = context.subject
    if not isinstance(subject, FunctionSubject) or subject.takes_config:
        raise NotOfferedError("it is no function")
    p, g = np.linspace(-1, 1.5, 6), np.linspace(-2, 3, 6)
    arrays = tuple(array_for(x, "float64", tensors=subject.tensors) for x in (p, g))
    context.make(*arrays, {}, 1)
    if not np.array_equal(np.asarray(arrays[1]), g):
        return "the gradient changes during the step"
    return "" if np.array_equal(np.asarray(arrays[0]), p) else "the parameter given is changed beside the one returned"


NUMPY = (_gradient, _dtype, _no_gradients, _state_copied, _state_refused, _step_count)
"""For NumPy optimizers only."""

FUNCTION = (_pure,)
"""For functions only."""

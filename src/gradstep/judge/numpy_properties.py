"""What a NumPy optimizer and a pure function must do beside the mathematics."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np

from gradstep.judge.battery import LR
from gradstep.judge.properties import Context, Property
from gradstep.judge.subjects.base import NotOfferedError, array_for
from gradstep.judge.subjects.numpy_optimizer import Gradient, NumpySubject, buffers_of
from gradstep.judge.subjects.pure_function import FunctionSubject


def _over(context: Context, dtype: str) -> tuple[Any, list[Any]]:
    subject = context.subject
    if not isinstance(subject, NumpySubject):
        raise NotOfferedError("it is no NumPy optimizer")
    params = [subject.parameter(np.linspace(-1, 1.5, 6, dtype=dtype).reshape(2, 3)) for _ in range(2)]
    usual = {"lr": LR, "momentum": 0.9, "weight_decay": 0.1, **context.fixed}
    return subject.make(params, **subject.arguments.named(usual), **subject.extra), params


def _gradient(context: Context) -> str:
    optimizer, params = _over(context, "float64")
    for _ in range(2):
        grads = [np.linspace(-2, 3, 6).reshape(2, 3).view(Gradient) for _ in params]
        copies = [g.copy() for g in grads]
        for p, g in zip(params, grads):
            p.grad = g
        optimizer.step()
        if not all(np.array_equal(g, c) for g, c in zip(grads, copies)):
            return "the numbers in p.grad change during the step"
    return ""


def _dtype(context: Context) -> str:
    optimizer, params = _over(context, "float32")
    for p in params:
        p.grad = np.ones((2, 3), dtype=np.float32).view(Gradient)
    optimizer.step()
    kind = np.asarray(params[0].data).dtype
    return "" if kind == np.float32 else f"a float32 parameter becomes {kind}"


def _nothing(context: Context) -> str:
    optimizer, params = _over(context, "float64")
    before = [np.array(p.data) for p in params]
    optimizer.step()
    return "" if all(np.array_equal(p.data, b) for p, b in zip(params, before)) else "parameters without gradient move"


def _stepped(context: Context) -> tuple[Any, list[Any]]:
    """An optimizer after two steps."""
    optimizer, params = _over(context, "float64")
    for scale in (1.0, -0.5):
        for p in params:
            p.grad = (scale * np.linspace(-2, 3, 6).reshape(2, 3)).view(Gradient)
        optimizer.step()
    return optimizer, params


def _state_copied(context: Context) -> str:
    ends = []
    for spoiled in (False, True):
        optimizer, params = _stepped(context)
        state = buffers_of(optimizer)
        if spoiled:
            _spoil(state)
        for p in params:
            p.grad = np.ones((2, 3)).view(Gradient)
        optimizer.step()
        ends.append([np.array(p.data) for p in params])
    same = all(np.array_equal(a, b, equal_nan=True) for a, b in zip(*ends))
    return "" if same else "what get_momentum_state returns is the optimizer's own state, not a copy of it"


def _spoil(state: Any) -> None:
    for held in state or ():
        for array in held if isinstance(held, (tuple, list)) else (held,):
            if isinstance(array, np.ndarray):
                array[...] = 99.0


def _state_refused(context: Context) -> str:
    optimizer, _ = _stepped(context)
    state = deepcopy(buffers_of(optimizer))
    if not state:
        raise NotOfferedError("it keeps no buffers")
    try:
        optimizer.set_momentum_state(state[:1])
    except Exception:
        return ""
    return "set_momentum_state takes the state of one parameter for two"


def _step_count(context: Context) -> str:
    optimizer, _ = _stepped(context)
    if "step_count" not in dir(optimizer):
        raise NotOfferedError("it has no step_count")
    return "" if optimizer.step_count == 2 else f"step_count is {optimizer.step_count} after two steps"


def _pure(context: Context) -> str:
    subject = context.subject
    if not isinstance(subject, FunctionSubject):
        raise NotOfferedError("it is no function")
    p, g = np.linspace(-1, 1.5, 6), np.linspace(-2, 3, 6)
    given = tuple(array_for(x, "float64", tensors=subject.tensors) for x in (p, g))
    settings = subject.arguments.named({"lr": LR, "weight_decay": 0.1, "momentum": 0.9, **context.fixed})
    subject.make(*given, {}, 1, **settings, **subject.extra)
    if not np.array_equal(np.asarray(given[1]), g):
        return "the gradient changes during the step"
    return "" if np.array_equal(np.asarray(given[0]), p) else "the parameter given is changed beside the one returned"


NUMPY = (
    Property("gradient untouched", "p.grad belongs to the caller", "`grad += ...`, `grad *= ...`", _gradient),
    Property(
        "float32 kept",
        "a float32 parameter stays float32",
        "Python floats keep an array's type; `np.float64` does not",
        _dtype,
    ),
    Property("no gradients at all", "a step before any backward", "`if p.grad is None: continue`", _nothing),
    Property("state copied", "get_momentum_state gives copies", "`[b.copy() for b in self.buffers]`", _state_copied),
    Property(
        "state refused",
        "a state of other parameters is refused",
        "`if len(state) != len(self.params): raise ValueError` before anything is stored",
        _state_refused,
        essential=False,
    ),
    Property(
        "step count",
        "step_count counts the steps",
        "`self.step_count += 1` once, at the end of step()",
        _step_count,
        essential=False,
    ),
)
"""For NumPy optimizers only."""

FUNCTION = (Property("pure", "the inputs are left alone", "`p -= ...`, `g *= ...`: take `p = p - ...`", _pure),)
"""For functions only."""

"""A rule alone, without any engine: in Python floats, or float64 arrays."""

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import numpy as np

from gradstep.rules import Rule, State


def steps(rule: Rule, p: Any, *gradients: Any) -> list[Any]:
    """The parameter after each gradient."""
    return [p for p, _ in trace(rule, p, gradients)]


def trace(rule: Rule, p: Any, gradients: Iterable[Any]) -> Iterable[tuple[Any, State]]:
    """The parameter and the state after each gradient."""
    shape = np.shape(p)
    start = {
        s.name: np.full(s.shape(shape), s.fill, np.asarray(p).dtype) if shape else s.fill
        for s in rule.slots(len(shape))
    }
    state, scalars = State(**start), dict(rule.scalars)
    for step, g in enumerate(gradients, 1):
        row = rule.coefficients(step, **scalars)
        scalars = {name: row[name] for name in scalars}
        p = rule.update(p, -g if rule.maximize else g, state, SimpleNamespace(**row))
        yield p, state

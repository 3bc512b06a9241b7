"""State that is written down, and state that is read back: copied, and looked at before anything is changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gradstep.numpy.base import HasGradient
from gradstep.numpy.table import Buffers, fit_array
from gradstep.rules import Rule


def copy_buffers(held: Buffers) -> Buffers:
    """The arrays of one slot, copied."""
    return [None if array is None else array.copy() for array in held]


def restore_buffers(held: Sequence[Any], params: Sequence[HasGradient], rule: Rule, slot: str) -> Buffers:
    """The arrays of one slot as copies in each parameter's type of elements.

    Args:
        held: an array or None for every parameter.
        params: the parameters.
        rule: whose slot it is.
        slot: its name.

    Raises:
        ValueError: another number of arrays, or one of another shape.
        TypeError: an array that does not hold real numbers.
    """
    check_length(held, len(params))
    return [_restore_array(array, param.data, rule, slot, i) for i, (array, param) in enumerate(zip(held, params))]


def _restore_array(array: Any, data: Any, rule: Rule, slot: str, i: int) -> Any:
    if array is None:
        return None
    # A slot that a setting has switched off is the parameter's shape when it is switched on again.
    shapes = {s.name: s.shape(data.shape) for s in rule.slots(data.ndim)}
    return np.array(fit_array(array, data, shapes.get(slot, data.shape), f"{slot} of parameter {i}"), order="K")


def check_length(held: Sequence[Any], count: int) -> None:
    """Refuse a state of another number of parameters.

    Raises:
        ValueError: saying both numbers.
    """
    if len(held) != count:
        raise ValueError(f"Momentum state length mismatch: it has {len(held)} entries for {count} parameters")


def check_counts(values: Sequence[Any], count: int) -> list[int]:
    """How many updates each parameter has had.

    Raises:
        ValueError: another number of them, or one that is not a whole number of at least 0.
    """
    check_length(values, count)
    for value in values:
        if int(value) != value or value < 0:
            raise ValueError(f"an update count must be a whole number of at least 0, but is {value!r}")
    return [int(value) for value in values]


def check_scalars(values: Sequence[Any], count: int, name: str) -> list[float]:
    """A scalar of each parameter.

    Raises:
        ValueError: another number of them, or one that is not finite.
    """
    check_length(values, count)
    if not np.isfinite(list(values)).all():
        raise ValueError(f"{name} must be finite, but is {list(values)}")
    return [float(value) for value in values]

"""Copy state for a checkpoint, and check and copy the state of a checkpoint before anything is changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gradstep.numpy.base import HasGradient
from gradstep.numpy.table import Buffers, fit_array
from gradstep.rules import Rule


def copy_buffers(buffers: Buffers) -> Buffers:
    """Return copies of the arrays of one slot."""
    return [None if array is None else array.copy() for array in buffers]


def restore_buffers(buffers: Sequence[Any], params: Sequence[HasGradient], rule: Rule, slot: str) -> Buffers:
    """Return copies of the arrays of one slot, each in its parameter's type of elements.

    Args:
        buffers: an array or None for every parameter.
        params: the parameters.
        rule: the rule of the slot.
        slot: the name of the slot.

    Raises:
        ValueError: the number of arrays, or the shape of an array, is wrong.
        TypeError: an array does not hold real numbers.
    """
    check_length(buffers, len(params))
    return [_restore_array(array, param.data, rule, slot, i) for i, (array, param) in enumerate(zip(buffers, params))]


def _restore_array(array: Any, data: Any, rule: Rule, slot: str, i: int) -> Any:
    if array is None:
        return None
    # A slot that a setting has switched off has the parameter's shape when it is switched on again.
    shapes = {s.name: s.shape(data.shape) for s in rule.slots(data.ndim)}
    return np.array(fit_array(array, data, shapes.get(slot, data.shape), f"{slot} of parameter {i}"), order="K")


def check_length(entries: Sequence[Any], count: int) -> None:
    """Refuse a state of another number of parameters.

    Raises:
        ValueError: with both numbers.
    """
    if len(entries) != count:
        raise ValueError(f"Momentum state length mismatch: it has {len(entries)} entries for {count} parameters")


def check_counts(values: Sequence[Any], count: int) -> list[int]:
    """Return the number of updates of each parameter.

    Raises:
        ValueError: ``values`` does not have ``count`` entries, or an entry is not a whole number of at least 0.
    """
    check_length(values, count)
    for value in values:
        if not (_is_real(value) and 0 <= value < 2**53 and int(value) == value):
            raise ValueError(f"an update count must be a whole number of at least 0, but is {value!r}")
    return [int(value) for value in values]


def check_scalars(values: Sequence[Any], count: int, name: str) -> list[float]:
    """Return a scalar of each parameter.

    Raises:
        ValueError: ``values`` does not have ``count`` entries, or an entry is not finite.
    """
    check_length(values, count)
    if not all(_is_real(value) and np.isfinite(value) for value in values):
        raise ValueError(f"{name} must be finite, but is {list(values)}")
    return [float(value) for value in values]


def _is_real(value: Any) -> bool:
    """Return whether a value is a real number, and no truth value."""
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)

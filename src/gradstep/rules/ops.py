"""The few functions a rule may use beside ``+ - * /`` and ``abs``.

Each works on the values of every engine: Python and NumPy numbers, NumPy arrays, torch tensors and the traced values of
the fused kernel. NumPy values are handled here; torch's tensors and :class:`gradstep.engines.fused.trace.Value` have
methods of the same names.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

Array = Any
"""A Python float, a NumPy array, a torch tensor or a traced value; rules treat all alike."""

_NUMPY = (float, np.ndarray, np.generic)
# The functions test `type(x) is float`: NumPy's float64 is a subclass of float, and a Python number in its place would
# lack the methods that `mean` and `rms` need for a tensor of one element.


def sqrt(x: Array) -> Array:
    """Square root of every element, correctly rounded (NaN below zero).

    >>> sqrt(9.0)
    3.0
    """
    if type(x) is float:
        return float(np.sqrt(x))
    return np.sqrt(x) if isinstance(x, _NUMPY) else x.sqrt()


def sign(x: Array) -> Array:
    """Sign of every element: -1, 0 or 1; NaN stays NaN.

    >>> sign(-0.25)
    -1.0
    """
    if type(x) is float:
        return float(np.sign(x))
    # torch's sign of NaN is 0, which would hide it.
    return np.sign(x) if isinstance(x, _NUMPY) else x.sign().where(x == x, x)


def maximum(x: Array, y: Array) -> Array:
    """The larger of each pair; NaN if either is. ``y`` may be a Python number.

    >>> maximum(1.0, 2.0)
    2.0
    """
    if type(x) is float:
        return float(np.maximum(x, y))
    if isinstance(x, _NUMPY):
        # A Python number stays weak, so that a float32 array stays float32.
        return np.maximum(x, y)
    return x.clamp(min=y) if isinstance(y, float) else x.maximum(y)


def where(condition: Array, x: Array, y: Array) -> Array:
    """``x`` where the condition holds, else ``y``; ``x`` is an array of the condition's shape, ``y`` may be a number.

    >>> where(True, 1.0, 2.0)
    1.0
    """
    if type(x) is float:
        return float(np.where(condition, x, y))
    return np.where(condition, x, y) if isinstance(x, _NUMPY) else x.where(condition, y)


def mean(x: Array, axis: int) -> Array:
    """Mean along one axis, which is kept with length 1. Not for a rule that sees ``"elements"``.

    >>> mean(np.array([[1.0, 3.0], [2.0, 6.0]]), -1)
    array([[2.],
           [4.]])
    """
    return x.mean(axis, keepdims=True) if isinstance(x, np.ndarray) else x.mean(axis, keepdim=True)


def rms(x: Array) -> Array:
    """Root of the mean square over the whole tensor, a scalar. Not for a rule that sees ``"elements"``.

    >>> float(rms(np.array([3.0, -3.0])))
    3.0
    """
    return abs(x) if type(x) is float else sqrt((x * x).mean())


def epsilon(x: Array) -> float:
    """The machine epsilon of the arithmetic that ``x`` is in (2⁻²³ in float32).

    >>> epsilon(np.float32(1)) == 2.0**-23
    True
    """
    if type(x) is float:
        return sys.float_info.epsilon
    name = str(x.dtype).removeprefix("torch.")
    return float(np.finfo(name).eps)

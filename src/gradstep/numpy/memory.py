"""Where an array lies, and how: asked of many arrays at every step, so it has to be quick."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Facts: TypeAlias = tuple[int, tuple[int, ...], tuple[int, ...], "np.dtype[Any]", int]
"""Address, shape, strides, type of elements, and NumPy's flags (in order, aligned, writeable) of an array."""

LAYOUT = slice(1, 4)
"""The part of the facts that another array in the same layout shares."""


def facts(array: NDArray[Any]) -> Facts:
    """What there is to know of an array before its elements are touched.

    >>> x = np.zeros((2, 3), dtype=np.float32)
    >>> facts(x)[0] == x.ctypes.data, facts(x)[LAYOUT]
    (True, ((2, 3), (12, 4), dtype('float32')))
    """
    return address(array), array.shape, array.strides, array.dtype, array.flags.num


def _asked(array: NDArray[Any]) -> int:
    """Some three microseconds: a step of a small array takes less."""
    return array.ctypes.data


def _read(array: NDArray[Any]) -> int:
    """The first field of NumPy's ``PyArrayObject`` after Python's own, ``char *data``: a tenth of the time."""
    return ctypes.c_size_t.from_address(id(array) + object.__basicsize__).value


def _address() -> Callable[[NDArray[Any]], int]:
    if sys.implementation.name != "cpython":  # elsewhere id() is no address
        return _asked
    examples = np.zeros(3), np.zeros((2, 3))[1:, ::2]
    return _read if all(_read(x) == _asked(x) for x in examples) else _asked


address = _address()
"""Where the first element of an array lies."""

"""The few words of integer arithmetic that codecs are written in, on NumPy arrays, torch tensors and traced values.

All whole numbers are int32. ``>>`` fills with zeros in the kernel and with the sign elsewhere: shift numbers that are
not negative, or mask what was shifted.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from gradstep.rules.ops import Array

_NUMPY = (np.ndarray, np.generic)


def is_tensor(x: Array) -> bool:
    """Whether this is torch's, which converts its own types."""
    return type(x).__module__.startswith("torch")


def _types(x: Array) -> Any:
    return sys.modules["torch"] if is_tensor(x) else np


def converted(x: Array, name: str) -> Array:
    """The numbers as another type, by its name."""
    kind = getattr(_types(x), name)
    return x.to(kind) if is_tensor(x) else x.astype(kind)


def bits(x: Array) -> Array:
    """The bits of float32 numbers, as int32.

    >>> int(bits(np.array([1.0], np.float32))[0] >> 23)
    127
    """
    return x.view(_types(x).int32)


def number(b: Array) -> Array:
    """The float32 numbers that have these bits.

    >>> float(number(np.array([127 << 23], np.int32))[0])
    1.0
    """
    return b.view(_types(b).float32)


def whole(x: Array) -> Array:
    """The whole part of float32 numbers as int32; of a number that int32 cannot hold, anything: do not use it.

    >>> int(whole(np.array([2.75], np.float32))[0])
    2
    """
    with np.errstate(invalid="ignore"):
        return converted(x, "int32")


def at_least(b: Array, bound: Array) -> Array:
    """The larger of two int32."""
    return np.maximum(b, bound) if isinstance(b, _NUMPY) else b.clamp(min=bound)


def at_most(b: Array, bound: int) -> Array:
    """The smaller of two int32."""
    return np.minimum(b, bound) if isinstance(b, _NUMPY) else b.clamp(max=bound)

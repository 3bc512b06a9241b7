"""Integer arithmetic for codecs, element by element on NumPy arrays, torch tensors and the kernel's traced values.

All integers are int32, and arrays keep their shape. ``>>`` fills with the sign.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from gradstep.rules.ops import Array

_NUMPY = (np.ndarray, np.generic)


def is_tensor(x: Array) -> bool:
    """Return whether x is a torch tensor, which converts its types itself."""
    return type(x).__module__.startswith("torch")


def _types(x: Array) -> Any:
    return sys.modules["torch"] if is_tensor(x) else np


def cast(x: Array, name: str) -> Array:
    """Convert numbers to another type, by its name."""
    kind = getattr(_types(x), name)
    return x.to(kind) if is_tensor(x) else x.astype(kind)


def to_bits(x: Array) -> Array:
    """Return the bits of float32 numbers as int32.

    >>> int(to_bits(np.array([1.0], np.float32))[0] >> 23)
    127
    """
    return x.view(_types(x).int32)


def from_bits(b: Array) -> Array:
    """Return the float32 numbers with these bits.

    >>> float(from_bits(np.array([127 << 23], np.int32))[0])
    1.0
    """
    return b.view(_types(b).float32)


def truncate(x: Array) -> Array:
    """Return the integer part of float32 numbers as int32; for numbers outside int32 the result is undefined.

    >>> int(truncate(np.array([2.75], np.float32))[0])
    2
    """
    with np.errstate(invalid="ignore"):
        return cast(x, "int32")


def at_least(b: Array, bound: Array) -> Array:
    """Return the larger of two int32."""
    return np.maximum(b, bound) if isinstance(b, _NUMPY) else b.clamp(min=bound)


def at_most(b: Array, bound: Array) -> Array:
    """Return the smaller of two int32."""
    return np.minimum(b, bound) if isinstance(b, _NUMPY) else b.clamp(max=bound)

"""Element types: how one number is decoded and encoded, written once for each type.

An element type converts stored numbers to numbers of the arithmetic (float32, or float64 for float64) and back. The
same code runs on NumPy arrays and on the traced values of the fused kernel, so both agree bit for bit; torch converts
its tensors itself. Arrays keep their shape. Codecs use the same integer arithmetic.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from typing import Any, final

import numpy as np

from gradstep.rules.ops import Array, where

# -- integer arithmetic -----------------------------------------------------------------------------------------------
#
# All integers are int32, and arrays keep their shape. ``>>`` fills with the sign.

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


# -- element types ----------------------------------------------------------------------------------------------------


class Element(ABC):
    """A stored element type.

    Attributes:
        name: torch's name of the type.
        stored: the NumPy type of its memory.
        itemsize: bytes per element.
        arithmetic: the NumPy type that rules compute in.
    """

    name: str
    stored: type[np.generic]
    itemsize: int
    arithmetic: type[np.floating[Any]] = np.float32

    def __repr__(self) -> str:
        return f"<{self.name}>"

    def decode(self, code: Array) -> Array:
        """Return the stored numbers in the arithmetic; exact."""
        return cast(code, self.arithmetic.__name__) if is_tensor(code) else self._decode(code)

    def encode(self, x: Array) -> Array:
        """Return the nearest numbers as they are stored, ties to even; NaN stays NaN."""
        return cast(x, self.name) if is_tensor(x) else self._encode(x)

    def nearest(self, x: Array) -> Array:
        """Return the nearest numbers that can be stored, in the arithmetic."""
        return self.decode(self.encode(x))

    @abstractmethod
    def _decode(self, code: Array) -> Array: ...

    @abstractmethod
    def _encode(self, x: Array) -> Array: ...


class Half(Element):
    """An element of 16 bits, which can be rounded at random without bias."""

    @abstractmethod
    def at_random(self, x: Array, noise: Array) -> Array:
        """Round at random to one of the two neighbours, the more likely the nearer it is, and return it as stored.

        Args:
            x: float32 numbers; numbers that can be stored, and NaN, do not change.
            noise: int32 of the same shape, uniform on 0 … 2²⁰ − 1.
        """


@final
class Full(Element):
    """IEEE single or double precision, the arithmetic itself."""

    def __init__(self, arithmetic: type[np.floating[Any]]) -> None:
        self.name, self.itemsize = arithmetic.__name__, np.dtype(arithmetic).itemsize
        self.stored = self.arithmetic = arithmetic

    def _decode(self, code: Array) -> Array:
        return code

    def _encode(self, x: Array) -> Array:
        return x


@final
class Float16(Half):
    """IEEE half precision; the hardware (and NumPy) converts it."""

    name = "float16"
    stored = np.float16
    itemsize = 2

    def _decode(self, code: Array) -> Array:
        return code.astype(np.float32)

    def _encode(self, x: Array) -> Array:
        with np.errstate(over="ignore"):  # beyond 65504 is infinity, as in the kernel
            return x.astype(np.float16)

    def at_random(self, x: Array, noise: Array) -> Array:
        # Normal numbers have 10 of 23 places. Subnormal numbers are multiples of 2⁻²⁴, the last place of a float32 near
        # 0.75: adding 0.75 rounds to them, and the noise decides on the direction. It has 13 bits here too: with more,
        # its sum with a number just under 2⁻¹⁴ would itself be rounded, to a tie.
        random = noise >> 7
        normal = from_bits((to_bits(x) + random) & -0x2000)
        shift = (cast(random, "float32") - 4095.5) * 2.0**-37
        subnormal = (x + shift + 0.75) - 0.75
        return self.encode(where(x == x, where(abs(x) < 2.0**-14, subnormal, normal), x))


@final
class BFloat16(Half):
    """The upper half of a float32, converted by integer operations: the processor's conversion sets subnormals to 0."""

    name = "bfloat16"
    stored = np.uint16
    itemsize = 2

    def _decode(self, code: Array) -> Array:
        return (code.astype(np.uint32) << 16).view(np.float32)

    def _encode(self, x: Array) -> Array:
        b = x.view(np.uint32)
        # Add half of the last stored place, less one bit unless that place is odd: to nearest, ties to even.
        rounded = (b + (((b >> 16) & 1) + 0x7FFF)) >> 16
        quiet = (b >> 16) | 0x40
        return where(x == x, rounded, quiet).astype(np.uint16)

    def at_random(self, x: Array, noise: Array) -> Array:
        upper = where(x == x, to_bits(x) + (noise >> 4), to_bits(x) | 0x400000) >> 16
        return cast(upper, "int16").view(sys.modules["torch"].bfloat16) if is_tensor(x) else upper.astype(np.uint16)


@final
class Byte(Element):
    """Eight bits for codes and scales; int32 in the arithmetic."""

    name = "uint8"
    stored = np.uint8
    itemsize = 1

    def _decode(self, code: Array) -> Array:
        return code.astype(np.int32)

    def _encode(self, x: Array) -> Array:
        return x.astype(np.uint8)

    def decode(self, code: Array) -> Array:
        return cast(code, "int32")


@final
class Native(Element):
    """A type that only torch can convert, for the eager engine."""

    stored = np.void
    itemsize = 0

    def __init__(self, name: str) -> None:
        self.name = name

    def _decode(self, code: Array) -> Array:
        raise TypeError(f"only torch converts {self.name}")

    def _encode(self, x: Array) -> Array:
        raise TypeError(f"only torch converts {self.name}")


BFLOAT16 = BFloat16()

ELEMENTS: dict[str, Element] = {e.name: e for e in (Full(np.float32), Full(np.float64), Float16(), BFLOAT16)}
"""The element types of numbers by name."""

BYTE = Byte()

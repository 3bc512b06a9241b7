"""How one number is stored: the decoding and encoding of each element type, written once.

An element turns stored numbers into numbers of the arithmetic (float32, or float64 for float64) and back. It runs on
NumPy arrays and on the traced values of the fused kernel alike, so both agree bit for bit; torch converts its tensors
itself.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from typing import Any, final

import numpy as np

from gradstep.rules.ops import Array, where
from gradstep.storage.bits import bits, converted, is_tensor, number


class Element(ABC):
    """A stored element type.

    Attributes:
        name: torch's name of the type.
        stored: the NumPy type that its memory is read as.
        arithmetic: the NumPy type that rules compute in.
    """

    name: str
    stored: type[np.generic]
    arithmetic: type[np.floating[Any]] = np.float32

    def __repr__(self) -> str:
        return f"<{self.name}>"

    @property
    def itemsize(self) -> int:
        """Bytes per element."""
        return np.dtype(self.stored).itemsize

    def decode(self, code: Array) -> Array:
        """The stored numbers in the arithmetic; exact."""
        return converted(code, self.arithmetic.__name__) if is_tensor(code) else self._decode(code)

    def encode(self, x: Array) -> Array:
        """The nearest stored numbers, ties to even; NaN stays NaN."""
        return converted(x, self.name) if is_tensor(x) else self._encode(x)

    def nearest(self, x: Array) -> Array:
        """The nearest numbers that can be stored, still in the arithmetic."""
        return self.decode(self.encode(x))

    @abstractmethod
    def _decode(self, code: Array) -> Array: ...

    @abstractmethod
    def _encode(self, x: Array) -> Array: ...


class Half(Element):
    """An element of 16 bits, which rounding at random can keep unbiased."""

    @abstractmethod
    def at_random(self, x: Array, noise: Array) -> Array:
        """One of the two neighbours as it is stored, each as likely as it is near.

        Args:
            x: float32 numbers; what can be stored stays, and so does NaN.
            noise: as many int32, uniform on 0 … 2²⁰ − 1.
        """


@final
class Float32(Element):
    """IEEE single precision, the arithmetic itself."""

    name = "float32"
    stored = np.float32

    def _decode(self, code: Array) -> Array:
        return code

    def _encode(self, x: Array) -> Array:
        return x


@final
class Float64(Element):
    """IEEE double precision, computed in double precision."""

    name = "float64"
    stored = np.float64
    arithmetic = np.float64

    def _decode(self, code: Array) -> Array:
        return code

    def _encode(self, x: Array) -> Array:
        return x


@final
class Float16(Half):
    """IEEE half precision; the hardware (and NumPy) converts it."""

    name = "float16"
    stored = np.float16

    def _decode(self, code: Array) -> Array:
        return code.astype(np.float32)

    def _encode(self, x: Array) -> Array:
        with np.errstate(over="ignore"):  # beyond 65504 is infinity, as in the kernel
            return x.astype(np.float16)

    def at_random(self, x: Array, noise: Array) -> Array:
        # Normal numbers keep 10 of 23 places. Subnormal ones are multiples of 2⁻²⁴, the last place of a float32 near
        # 0.75: adding that rounds to them, and the noise decides where to. It has 13 bits here too: with more, its sum
        # with a number just under 2⁻¹⁴ would have to be rounded, to a tie.
        random = noise >> 7
        normal = number((bits(x) + random) & -0x2000)
        shift = (converted(random, "float32") - 4095.5) * 2.0**-37
        subnormal = (x + shift + 0.75) - 0.75
        return self.encode(where(x == x, where(abs(x) < 2.0**-14, subnormal, normal), x))


@final
class BFloat16(Half):
    """The upper half of a float32, in integer operations: the processor's own conversion flushes subnormals to 0."""

    name = "bfloat16"
    stored = np.uint16

    def _decode(self, code: Array) -> Array:
        return (code.astype(np.uint32) << 16).view(np.float32)

    def _encode(self, x: Array) -> Array:
        b = x.view(np.uint32)
        # Half of the last kept place, less one bit unless that place is odd: to nearest, ties to even.
        rounded = (b + (((b >> 16) & 1) + 0x7FFF)) >> 16
        quiet = (b >> 16) | 0x40
        return where(x == x, rounded, quiet).astype(np.uint16)

    def at_random(self, x: Array, noise: Array) -> Array:
        upper = where(x == x, bits(x) + (noise >> 4), bits(x) | 0x400000) >> 16
        return (
            converted(upper, "int16").view(sys.modules["torch"].bfloat16) if is_tensor(x) else upper.astype(np.uint16)
        )


@final
class Byte(Element):
    """Eight bits without a meaning of their own: codes and scales, as int32 in the arithmetic."""

    name = "uint8"
    stored = np.uint8

    def _decode(self, code: Array) -> Array:
        return code.astype(np.int32)

    def _encode(self, x: Array) -> Array:
        return x.astype(np.uint8)

    def decode(self, code: Array) -> Array:
        return converted(code, "int32")


@final
class Native(Element):
    """A type that only torch knows; it serves the eager engine."""

    stored = np.void

    def __init__(self, name: str) -> None:
        self.name = name

    def _decode(self, code: Array) -> Array:
        raise TypeError(f"only torch converts {self.name}")

    def _encode(self, x: Array) -> Array:
        raise TypeError(f"only torch converts {self.name}")


ELEMENTS: dict[str, Element] = {e.name: e for e in (Float32(), Float64(), Float16(), BFloat16())}
"""Every element type of numbers by its name."""

BYTE = Byte()

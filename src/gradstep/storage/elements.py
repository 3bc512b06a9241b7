"""How one number is stored: the decoding and encoding of each element type, written once.

A codec turns stored numbers into numbers of the arithmetic (float32, or float64 for float64) and back. It runs on
NumPy arrays and on the traced values of the fused kernel alike, so both agree bit for bit.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, final

import numpy as np

from gradstep.rules.ops import Array, where


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

    @property
    def itemsize(self) -> int:
        """Bytes per element."""
        return np.dtype(self.stored).itemsize

    @abstractmethod
    def decode(self, code: Array) -> Array:
        """The stored numbers in the arithmetic; exact."""

    @abstractmethod
    def encode(self, x: Array) -> Array:
        """The nearest stored numbers, ties to even; NaN stays NaN."""


@final
class Float32(Element):
    """IEEE single precision, the arithmetic itself."""

    name = "float32"
    stored = np.float32

    def decode(self, code: Array) -> Array:
        return code

    def encode(self, x: Array) -> Array:
        return x


@final
class Float64(Element):
    """IEEE double precision, computed in double precision."""

    name = "float64"
    stored = np.float64
    arithmetic = np.float64

    def decode(self, code: Array) -> Array:
        return code

    def encode(self, x: Array) -> Array:
        return x


@final
class Float16(Element):
    """IEEE half precision; the hardware (and NumPy) converts it."""

    name = "float16"
    stored = np.float16

    def decode(self, code: Array) -> Array:
        return code.astype(np.float32)

    def encode(self, x: Array) -> Array:
        with np.errstate(over="ignore"):  # beyond 65504 is infinity, as in the kernel
            return x.astype(np.float16)


@final
class BFloat16(Element):
    """The upper half of a float32, in integer operations: the processor's own conversion flushes subnormals to 0."""

    name = "bfloat16"
    stored = np.uint16

    def decode(self, code: Array) -> Array:
        return (code.astype(np.uint32) << 16).view(np.float32)

    def encode(self, x: Array) -> Array:
        bits = x.view(np.uint32)
        # Half of the last kept place, less one bit unless that place is odd: to nearest, ties to even.
        rounded = (bits + (((bits >> 16) & 1) + 0x7FFF)) >> 16
        quiet = (bits >> 16) | 0x40
        return where(x == x, rounded, quiet).astype(np.uint16)


ELEMENTS: dict[str, Element] = {e.name: e for e in (Float32(), Float64(), Float16(), BFloat16())}
"""Every element type by its name."""

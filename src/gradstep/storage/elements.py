"""Element types: how one number is decoded and encoded, to nearest or at random, written once for each type.

An element type converts stored numbers to numbers of the arithmetic (float32, or float64 for float64) and back. The
same code runs on NumPy arrays and on the traced values of the fused kernel, so both agree bit for bit; torch converts
its tensors itself. Arrays keep their shape. Codecs use the same integer arithmetic.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from hashlib import blake2b
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from gradstep.rules.base import Array, where

# -- integer arithmetic -----------------------------------------------------------------------------------------------
#
# All integers are int32, and arrays keep their shape. ``>>`` fills with the sign.

_NUMPY = (np.ndarray, np.generic)


def is_tensor(x: Array) -> bool:
    """Return whether x is a torch tensor, which converts its types itself."""
    return type(x).__module__.startswith("torch")  # not isinstance: torch.compile cannot trace a look at sys.modules


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
        itemsize: bytes per stored number.
        arithmetic: the NumPy type that rules compute in.
        packs: how many codes a stored number holds; more than one only in :class:`Nibbles`.
    """

    name: str
    stored: type[np.generic]
    itemsize: int
    arithmetic: type[np.floating[Any]] = np.float32
    packs: int = 1

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
class Nibbles(Element):
    """Bytes with the codes of two neighbouring elements, 0 to 15: the lower half of a byte is the first.

    Arrays are flat, since their length changes; the kernel packs its vectors itself.
    """

    name = "uint8"
    stored = np.uint8
    itemsize = 1
    packs = 2

    def decode(self, code: Array) -> Array:
        """Return (2 · bytes,) int32 codes of flat bytes.

        >>> NIBBLES.decode(np.array([0x21, 0x43], np.uint8)).tolist()
        [1, 2, 3, 4]
        """
        wide = cast(code, "int32")
        return _types(code).stack((wide & 15, wide >> 4), -1).reshape(-1)

    def encode(self, x: Array) -> Array:
        """Return (⌈n / 2⌉,) bytes of flat codes (n,); the upper half of the last is 0 if n is odd.

        >>> NIBBLES.encode(np.array([1, 2, 3], np.int32)).tolist()
        [33, 3]
        """
        zero = x[: len(x) % 2] * 0
        pairs = _types(x).concatenate((x, zero)).reshape(-1, 2)
        return cast(pairs[:, 0] | pairs[:, 1] << 4, self.name)

    def _decode(self, code: Array) -> Array:
        return self.decode(code)

    def _encode(self, x: Array) -> Array:
        return self.encode(x)


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

BYTE, NIBBLES = Byte(), Nibbles()


# -- noise ------------------------------------------------------------------------------------------------------------
#
# The noise for rounding at random is a function of (seed, parameter, step, element) only. Each element gets a random
# number per stream by mixing its index with two keys. A generator with a state would give other numbers for another
# number of threads, another order of tensors, or after a resume.
#
# There is a stream for the parameter and one for all slots. The slots of an element are rounded with the same random
# number: where the first moment is rounded up, so is mostly the second. That makes the error of their ratio, and so of
# the update, smaller than two random numbers would. With codes as coarse as 4 bits a model's loss was higher so: there
# slots that are never negative have a third stream.

BITS = 20
"""Number of random bits for each element."""

NOISES = ("names", "positions")
"""What a parameter's noise depends on: its name if it has one, else its position; or always its position, as in older
checkpoints."""

PARAMETER, SLOTS, SECOND_SLOTS = 0x297A2D39, 0x29F4ECE7, 0x2AF2B68D
"""The second multiplier of each stream: odd numbers, of which the first two mix best of 19 pairs tried."""

STRIDE = 0x2C1B3C6D
"""The difference of the :func:`sequence_position` of neighbouring elements."""

_MASK = 2**64 - 1


def number_of_name(name: str) -> int:
    """Return the number of a parameter with a name, a signed integer of 64 bits for :func:`streams`.

    A name is the same in every optimizer that has the parameter, whichever other parameters it has. A parameter without
    a name has its position as its number.

    >>> number_of_name("layers.0.weight")
    4473830710502933260
    """
    return int.from_bytes(blake2b(name.encode(errors="surrogatepass"), digest_size=8).digest(), "little", signed=True)


def streams(seed: int, numbers: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Return the part of the key of each parameter that is the same at every step, (n,).

    Args:
        seed: the seed of the optimizer.
        numbers: (n,) the number of each parameter: its position, or that of :func:`number_of_name`.
    """
    with np.errstate(over="ignore"):
        x = _mix(np.full(len(numbers), seed & _MASK, dtype=np.uint64) + np.uint64(0x9E3779B97F4A7C15))
        return _mix(x ^ numbers.astype(np.uint64))


def keys(parameter_streams: NDArray[np.uint64], steps: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return a key of 64 bits for each parameter at its step, (n,).

    Args:
        parameter_streams: (n,) from :func:`streams`.
        steps: (n,) the step number of each parameter.

    >>> k = keys(streams(0, np.array([0, 0, 1])), np.array([1, 2, 1]))
    >>> len(set(k.tolist()))
    3
    """
    with np.errstate(over="ignore"):
        return _mix(parameter_streams ^ steps.astype(np.uint64)).view(np.int64)


def move_keys(parameter_keys: NDArray[np.int64], elements: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return keys with which the first element of a part gets the noise of its number in the whole parameter, (n,).

    Args:
        parameter_keys: (n,) the keys of the whole parameters.
        elements: (n,) the number of the first element of each part in the whole parameter.
    """
    low = np.int64(0xFFFFFFFF)
    moved: NDArray[np.int64] = parameter_keys & ~low | (parameter_keys + elements) & low
    return moved


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Mix the bits of each number, (n,)."""
    # The finalizer of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    result: NDArray[np.uint64] = x ^ (x >> np.uint64(31))
    return result


def split_key(key: int) -> tuple[int, int]:
    """Return the low and the high 32 bits of a key, as int32."""
    return int(np.int64(key) << 32 >> 32), int(np.int64(key) >> 32)


def sequence_position(element: Array, low: Array) -> Array:
    """Return the position of each element in the sequence of its key, for :func:`draw_noise`; int32.

    Args:
        element: the index of each element in its parameter's memory, int32 (modulo 2³²).
        low: the lower half of the parameter's key.
    """
    return (element + low) * STRIDE


def draw_noise(position: Array, high: Array, stream: int) -> Array:
    """Return a random number for each element, int32 in 0 … 2²⁰ − 1.

    Args:
        position: the position of each element, from :func:`sequence_position`.
        high: the upper half of the parameter's key.
        stream: PARAMETER, SLOTS or SECOND_SLOTS.
    """
    # Multiply, fold, multiply, with constants from hash prospector (C. Wellons); only the upper bits, which both
    # multiplications have mixed, are used. The second key is added in the middle: otherwise two steps with similar
    # first keys would share their noise, shifted by some elements. Streams differ by their second multiplier: adding a
    # constant instead would map the highest bits of one stream to those of the other.
    x = position ^ _shift_right(position, 12) ^ high
    return _shift_right(x * stream, 32 - BITS)


def _shift_right(x: Array, places: int) -> Array:
    """Shift right and fill with zeros, also where int32 would fill with the sign; the shape stays."""
    return (x >> places) & ((1 << (32 - places)) - 1)

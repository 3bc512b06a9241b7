"""How a value of state, or a parameter, is kept in memory: in which arrays, and how they become one number.

A codec has one field or more. Each is an array of one element type; the codec joins their numbers to the number that
the rule computes with, and splits a new one into their codes. Codecs are written once and run on NumPy arrays, torch
tensors and the traced values of the fused kernel.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from gradstep.rules.ops import Array, where
from gradstep.storage.bits import at_least, at_most, bits, number, whole
from gradstep.storage.elements import BYTE, ELEMENTS, Element, Half
from gradstep.storage.noise import BITS


@final
@dataclass(frozen=True)
class Field:
    """One array of a codec.

    Attributes:
        element: its type.
        suffix: what its key in the state adds to the slot's name.
        per: how many elements of the parameter share one of its numbers.
    """

    element: Element
    suffix: str = ""
    per: int = 1

    def length(self, elements: int) -> int:
        """How many numbers this field holds for so many elements."""
        return -(-elements // self.per)


@dataclass(frozen=True)
class Codec(ABC):
    """How a value is stored.

    Attributes:
        name: as users call it (``"8bit"``).
    """

    @property
    @abstractmethod
    def name(self) -> str: ...

    @property
    @abstractmethod
    def fields(self) -> tuple[Field, ...]:
        """The arrays; the first has the shape of the parameter."""

    @property
    @abstractmethod
    def noisy(self) -> bool:
        """Whether rounding takes noise."""

    @property
    def arithmetic(self) -> type[np.floating[Any]]:
        """What rules compute in."""
        return self.fields[0].element.arithmetic

    def nbytes(self, elements: int) -> int:
        """Bytes for a parameter of so many elements.

        >>> Blocks(signed=True).nbytes(512)
        514
        """
        return sum(f.element.itemsize * f.length(elements) for f in self.fields)


class Elementwise(Codec):
    """A codec that looks at one element at a time."""

    @abstractmethod
    def join(self, *numbers: Array) -> Array:
        """The stored value, from the number of each field."""

    @abstractmethod
    def split(self, x: Array, noise: Array) -> tuple[Array, ...]:
        """What each field stores of a new value.

        Args:
            x: the value.
            noise: int32, uniform on 0 … 2²⁰ − 1, if the codec is :attr:`noisy`.
        """

    @abstractmethod
    def kept(self, x: Array) -> Array:
        """What is there of a new value at the next step; of one that is rounded at random, what is on average."""


@dataclass(frozen=True)
class Single(Elementwise):
    """One array, whose elements are the values."""

    element: Element

    @property
    def name(self) -> str:
        return self.element.name

    @property
    def fields(self) -> tuple[Field, ...]:
        return (Field(self.element),)

    def join(self, *numbers: Array) -> Array:
        return numbers[0]


@final
@dataclass(frozen=True)
class Nearest(Single):
    """One element, rounded to nearest."""

    @property
    def noisy(self) -> bool:
        return False

    def split(self, x: Array, noise: Array) -> tuple[Array, ...]:
        return (self.element.encode(x),)

    def kept(self, x: Array) -> Array:
        return self.element.nearest(x)


@final
@dataclass(frozen=True)
class Stochastic(Single):
    """Sixteen bits, rounded at random to one of two neighbours, so that the mean of many roundings is exact.

    Small changes are then made sometimes instead of never: an average with β = 0.999 moves by 0.1% a step, and
    bfloat16 holds no change under 0.4%.

    Source: Gupta et al., "Deep Learning with Limited Numerical Precision", arXiv:1502.02551, section 3.
    """

    element: Half

    @property
    def noisy(self) -> bool:
        return True

    def split(self, x: Array, noise: Array) -> tuple[Array, ...]:
        return (self.element.at_random(x, noise),)

    def kept(self, x: Array) -> Array:
        return x


@final
@dataclass(frozen=True)
class Kahan(Elementwise):
    """Sixteen bits, and what rounding to them left over in sixteen more: their sum is the value.

    This keeps what Kahan summation keeps (Zamirai et al., "Revisiting BFloat16 Training", arXiv:2010.06192, Algorithm
    3), and nothing is lost in between: the sum, of 16 or 17 places for bfloat16, is what is updated.
    """

    element: Half

    @property
    def name(self) -> str:
        return f"{self.element.name} + compensation"

    @property
    def fields(self) -> tuple[Field, ...]:
        return Field(self.element), Field(self.element, "kahan_comp")

    @property
    def noisy(self) -> bool:
        return False

    def join(self, *numbers: Array) -> Array:
        kept, rest = numbers
        return kept + rest

    def split(self, x: Array, noise: Array) -> tuple[Array, ...]:
        code = self.element.encode(x)
        rest = x - self.element.decode(code)
        return code, self.element.encode(where(abs(rest) < np.inf, rest, 0.0))  # beside an infinity there is no rest

    def kept(self, x: Array) -> Array:
        return x


@final
@dataclass(frozen=True)
class Master(Elementwise):
    """Sixteen bits for the model, and a float32 master copy that is updated (Micikevicius et al., arXiv:1710.03740).

    A parameter that somebody else has changed since is no longer its master's rounded value: it then starts anew from
    what it is.
    """

    element: Half

    @property
    def name(self) -> str:
        return f"{self.element.name} + float32 master"

    @property
    def fields(self) -> tuple[Field, ...]:
        return Field(self.element), Field(ELEMENTS["float32"], "master_param")

    @property
    def noisy(self) -> bool:
        return False

    def join(self, *numbers: Array) -> Array:
        rounded, master = numbers
        return where(self.element.nearest(master) == rounded, master, rounded)

    def split(self, x: Array, noise: Array) -> tuple[Array, ...]:
        return self.element.encode(x), x

    def kept(self, x: Array) -> Array:
        return x


_PLACES = BITS  # of the 23 places of a float32's mantissa; 3 are kept, and the noise is as long as what is dropped
_NAN = 0x7FC00000
_SIZE = 0x7FFFFFFF
_SIGN_AND_CODE = (0x87F << _PLACES) - 2**32  # bit 31, and the places of a signed code

BLOCK = 256
"""Elements that share one scale."""

NOT_FINITE = 0xFF
"""The scale of a block that holds infinity, NaN or a number that would be rounded to infinity."""


@final
@dataclass(frozen=True)
class Blocks(Codec):
    """Eight bits: small floating-point numbers whose exponents count down from their block's largest.

    A block of 256 keeps one byte, the biased exponent of its largest value (as the E8M0 scale of the OCP Microscaling
    formats, v1.0, section 5.4). A code keeps how far below that its own exponent lies, and three places of mantissa:

    - non-negative values 5 + 3 bits: 32 octaves below the largest;
    - signed values 1 + 4 + 3 bits: 16 octaves.

    A scale that is a power of two leaves the codes of a block where they are when the largest value changes: only then
    does rounding at random add noise once per *change* of a value, and not once per step. Zero is code 0. A value under
    the smallest code becomes that code or zero at random if it is signed; a non-negative one (a second moment, which
    updates are divided by) never becomes zero.

    Infinity and NaN stay what they are; in a block that holds one of them, or a number above 1.875 · 2¹²⁷, values are
    cut off to the next code and not rounded at random. The smallest code is never under 2⁻¹⁰⁸ (signed) or 2⁻¹²⁶.
    """

    signed: bool

    @property
    def name(self) -> str:
        return "8bit"

    @property
    def fields(self) -> tuple[Field, ...]:
        return Field(BYTE), Field(BYTE, "scale", BLOCK)

    @property
    def noisy(self) -> bool:
        return True

    @property
    def _octaves(self) -> int:
        """How far the smallest exponent is below the largest."""
        return 15 if self.signed else 31

    def _base(self, scale: Array) -> Array:
        """The bits of the power of two below the smallest code."""
        # The mask changes nothing; it keeps LLVM from splitting every sum with this one into two.
        return (scale - self._octaves) << _PLACES + 3 & 0xFF << _PLACES + 3

    def bare(self, x: Array) -> Array:
        """What is encoded of a value: a non-negative one without a sign, which a NaN may have."""
        return x if self.signed else number(bits(x) & _SIZE)

    def steady(self, x: Array, scale: Array) -> Array:
        """The same values, but in a block that holds infinity or NaN cut off to what noise does not change.

        A NaN becomes that with one place set: CUDA's has all of them, and noise would make it one code too large.
        """
        cut = where(x == x, number(bits(x) & -(1 << _PLACES)), np.nan)
        return where(scale == NOT_FINITE, cut, x)

    def magnitude(self, x: Array) -> Array:
        """The bits of every |x|, which are in the order of the numbers; of :meth:`bare` values."""
        return bits(x) & _SIZE if self.signed else bits(x)

    def scale(self, peak: Array) -> Array:
        """The scale of a block: the biased exponent of its largest value after rounding up.

        Args:
            peak: the largest :meth:`magnitude` of the block.
        """
        rounded = at_most(peak, _NAN) + ((1 << _PLACES) - 1)
        # Not so low that a code or a threshold of rounding would be subnormal, which processors are slow with, or that
        # the inverse of the smallest code would overflow.
        return at_least(rounded >> _PLACES + 3, self._octaves + (19 if self.signed else 1))

    def join(self, code: Array, scale: Array) -> Array:
        """The stored values, from their codes and their block's scale (int32)."""
        base = self._base(scale)
        # Zero is found in the sum: LLVM would compare codes with 0 as bytes, and then widen the result (AVX2: 20%).
        if not self.signed:
            bits_ = (code << _PLACES) + base
            return number(where(bits_ > base, bits_, 0))
        signed = ((code ^ 0x80) - 0x80) << _PLACES & _SIGN_AND_CODE  # with the sign where an int32 has it
        return number(where((signed & _SIZE) + base > base, signed + base, signed))

    def split(self, x: Array, scale: Array, noise: Array) -> Array:
        """The codes of new values, for their block's scale.

        Args:
            x: the values, :meth:`bare` and :meth:`steady`.
            scale: of their blocks, from :meth:`scale`.
            noise: int32, uniform on 0 … 2²⁰ − 1.
        """
        size, base = self.magnitude(x), self._base(scale)
        smallest = base + (1 << _PLACES)
        if not self.signed:
            return BYTE.encode(where(size != 0, (at_least(size, smallest) - base + noise) >> _PLACES, 0))
        # Under the smallest code: that code as often as the value is long in comparison, else zero.
        small = whole(number(size) * (2.0**_PLACES / number(smallest)))
        code = (where(size >= smallest, size - base, small) + noise) >> _PLACES
        return BYTE.encode(code | (bits(x) >> 24) & 0x80)

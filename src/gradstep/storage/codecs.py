"""Codecs: how values of state, or parameters, are stored in arrays, and how the arrays give the values back.

A codec has one or more fields, each an array of one element type. It joins the numbers of its fields into the value
that the rule computes with, and splits a new value into their codes. Codecs are written once and run on NumPy arrays,
torch tensors and the traced values of the fused kernel. Unless a docstring says otherwise, all arrays of a method have
the same shape.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, final

import numpy as np

from gradstep.rules.base import Array, where
from gradstep.storage.elements import BITS, BYTE, SLOTS, Element, Half, at_least, at_most, from_bits, to_bits, truncate


@final
@dataclass(frozen=True)
class Field:
    """One array of a codec.

    Attributes:
        element: its element type.
        suffix: the addition to the slot's name in the field's key of the state.
        per: how many elements of the parameter share one of its numbers: those of a block, if it is a scale; those
            whose codes are packed into a number (``element.packs``); else 1.
    """

    element: Element
    suffix: str = ""
    per: int = 1

    def length(self, elements: int) -> int:
        """Return how many numbers this field has for so many elements of the parameter."""
        return -(-elements // self.per)

    def shape(self, parameter: Sequence[int]) -> tuple[int, ...]:
        """Return the shape of its array: the parameter's, or (blocks,), or (bytes,) of packed codes.

        >>> Field(BYTE, "scale", 256).shape((4, 100))
        (2,)
        """
        return tuple(parameter) if self.per == 1 else (self.length(math.prod(parameter)),)


@dataclass(frozen=True)
class Codec(ABC):
    """The way in which a value is stored.

    The elements of a block, which are neighbours in memory, share a scale. Blocks begin at the first element of the
    parameter; the last may be shorter. Codecs without scales have blocks of one element, and need none of the methods
    for blocks.

    Arrays of bytes 0 must decode to 0: state begins with them, as new pages of a file do.

    Attributes:
        name: the name for users (``"8bit"``).
        noisy: whether rounding needs noise.
    """

    noisy: ClassVar[bool]

    @property
    @abstractmethod
    def name(self) -> str: ...

    @property
    @abstractmethod
    def fields(self) -> tuple[Field, ...]:
        """The arrays of the codec; the first has the shape of the parameter, or is flat if its codes are packed.

        With scales, the first field has codes of at most one byte, and the last the scale of each block. No other codec
        has a field with the suffix of that one, since loading recognises the codec of a checkpoint by it.
        """

    @property
    def block(self) -> int:
        """The number of elements that share a scale: a power of 2, 16 to 16,384; 1 without scales."""
        return self.fields[-1].per

    @property
    def packed(self) -> bool:
        """Whether a byte has the codes of several elements: neighbours in row-major order."""
        return self.fields[0].element.packs > 1

    @property
    def stream(self) -> int:
        """The stream of noise of a slot that is stored so."""
        return SLOTS

    @property
    def arithmetic(self) -> type[np.floating[Any]]:
        """The NumPy type that rules compute in."""
        return self.fields[0].element.arithmetic

    @property
    def stores_arithmetic(self) -> bool:
        """Whether its only array holds the values that rules compute with, so that nothing is decoded or encoded."""
        return False

    @property
    def values(self) -> str:
        """The name of an element type that has every stored value; a smaller one than float32 if possible."""
        return "float32"

    def nbytes(self, elements: int) -> int:
        """Return the bytes for a parameter of so many elements.

        >>> Blocks(signed=True).nbytes(512)
        514
        """
        return sum(f.element.itemsize * f.length(elements) for f in self.fields)

    @abstractmethod
    def join(self, *numbers: Array) -> Array:
        """Return the stored values from the numbers of each field; a block's scale is repeated for its elements."""

    @abstractmethod
    def split(self, x: Array, noise: Array, scale: Array = None) -> tuple[Array, ...]:
        """Return the codes of new values, for each field but the scale; those to be packed as int32, one by one.

        Args:
            x: the values; in blocks, after :meth:`cut_noise_bits`.
            noise: int32, uniform on 0 … 2²⁰ − 1, if the codec is :attr:`noisy`.
            scale: in blocks, the scale of each value's block, from :meth:`scale`.
        """

    def scale(self, peak: Array) -> Array:
        """Return the scale of each block, a number that its field stores unchanged; for codecs with scales.

        Args:
            peak: the bits of the largest magnitude in each block, int32; those of NaN are larger than any number's.
        """
        raise TypeError(f"{self.name} has no scales, and was asked for the scale of {peak!r}")

    def has_noise_bits_to_cut(self, scale: Array) -> Array | None:
        """Return which blocks :meth:`cut_noise_bits` changes, by their scale; None if it never changes one."""
        del scale
        return None

    def cut_noise_bits(self, x: Array, scale: Array) -> Array:
        """Return values that noise does not round to other codes where it must not; the others unchanged.

        Args:
            x: the values.
            scale: the scale of each value's block.
        """
        del scale
        return x


class Elementwise(Codec):
    """A codec that stores every element separately, so that parameters can be stored with it."""

    @abstractmethod
    def expected_value(self, x: Array) -> Array:
        """Return the values after storing and reading; with stochastic rounding, their mean."""

    @property
    def loses_small_updates(self) -> bool:
        """Whether a value stays as it was if an update is under half its last place, at every step."""
        return False


@dataclass(frozen=True)
class Single(Elementwise):
    """One array with the values as its elements."""

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

    noisy = False

    @property
    def stores_arithmetic(self) -> bool:
        return self.element.stored is self.element.arithmetic

    def split(self, x: Array, noise: Array, scale: Array = None) -> tuple[Array, ...]:
        return (self.element.encode(x),)

    def expected_value(self, x: Array) -> Array:
        return self.element.nearest(x)

    @property
    def loses_small_updates(self) -> bool:
        return isinstance(self.element, Half)


_PLACES = BITS  # of the 23 places of a float32's mantissa, 3 are stored; the noise has as many bits as are dropped
_NAN, _SIZE = 0x7FC00000, 0x7FFFFFFF
_ONE = 127 << 23  # the bits of 1.0
_INVERSE = int(to_bits(np.float32(2.0**_PLACES / 1.125)))  # a smallest code is 1.125 times a power of 2
_SIGN_AND_CODE = (0x87F << _PLACES) - 2**32  # bit 31, and the bits of a signed code

BLOCK = 256
"""Elements that share one scale."""

NOT_FINITE = 0xFF
"""The scale of a block that holds infinity, NaN or a number that would be rounded to infinity."""

_CODES_AND_SCALES = Field(BYTE), Field(BYTE, "scale", BLOCK)  # once: a load asks for them several times a parameter


@final
@dataclass(frozen=True)
class Blocks(Codec):
    """Eight bits: small floating-point numbers with exponents relative to the largest exponent of their block.

    A block of 256 has a scale of one byte, the biased exponent of its largest value (as the E8M0 scale of the OCP
    Microscaling formats, v1.0, section 5.4). A code holds the difference of its exponent to the scale, and three places
    of mantissa:

    - non-negative values 5 + 3 bits: 32 octaves below the largest;
    - signed values 1 + 4 + 3 bits: 16 octaves.

    Because the scale is a power of two, the stored values of a block do not change when the largest value changes:
    rounding at random then adds noise once per *change* of a value, and not once per step. Zero is code 0. A signed
    value below the smallest code becomes that code or zero at random; a non-negative value (a second moment, which
    updates are divided by) never becomes zero.

    Infinity and NaN are stored as such; in a block with one of them, or with a number above 1.875 · 2¹²⁷, values are
    truncated to a code and not rounded at random. The smallest code is at least 2⁻¹⁰⁸ (signed) or 2⁻¹²⁶.
    """

    noisy = True
    signed: bool

    @property
    def name(self) -> str:
        return "8bit"

    @property
    def fields(self) -> tuple[Field, ...]:
        return _CODES_AND_SCALES

    @property
    def values(self) -> str:
        return "bfloat16"  # four places of mantissa, and float32's exponents

    @property
    def _octaves(self) -> int:
        """The difference of the largest and the smallest exponent."""
        return 15 if self.signed else 31

    def _base(self, scale: Array) -> Array:
        """Return the bits of the power of two below the smallest code, in the shape of the scale."""
        # The mask changes nothing; it stops LLVM from splitting every sum with this one into two.
        return (scale - self._octaves) << _PLACES + 3 & 0xFF << _PLACES + 3

    def has_noise_bits_to_cut(self, scale: Array) -> Array | None:
        return scale == NOT_FINITE

    def cut_noise_bits(self, x: Array, scale: Array) -> Array:
        # A NaN becomes the one with a single bit of mantissa: CUDA's has all bits, and noise would make its code one
        # too large.
        cut = where(x == x, from_bits(to_bits(x) & -(1 << _PLACES)), np.nan)
        return where(scale == NOT_FINITE, cut, x)

    def scale(self, peak: Array) -> Array:
        # The biased exponent of the block's largest value after rounding up.
        rounded = at_most(peak, _NAN) + ((1 << _PLACES) - 1)
        # High enough that no code or rounding threshold is subnormal, which is slow on processors, and that the inverse
        # of the smallest code does not overflow.
        return at_least(rounded >> _PLACES + 3, self._octaves + (19 if self.signed else 1))

    def join(self, *numbers: Array) -> Array:
        code, scale = numbers
        base = self._base(scale)
        # The sum is compared, not the code: LLVM would compare codes with 0 as bytes, and widen the result (AVX2: 20%).
        if not self.signed:
            bits_ = (code << _PLACES) + base
            return from_bits(where(bits_ > base, bits_, 0))
        signed = ((code ^ 0x80) - 0x80) << _PLACES & _SIGN_AND_CODE  # moves the sign to bit 31
        return from_bits(where((signed & _SIZE) + base > base, signed + base, signed))

    def split(self, x: Array, noise: Array, scale: Array = None) -> tuple[Array, ...]:
        # A non-negative value may be a NaN with a sign.
        size, base = to_bits(x) & _SIZE, self._base(scale)
        smallest = base + (1 << _PLACES)
        if not self.signed:
            code = (at_least(size, smallest) - base + noise) >> _PLACES  # 1 or more
            return (BYTE.encode(at_most(code, size)),)  # 0 for zero
        # A value below the smallest code becomes that code with a probability of their ratio, else zero.
        inverse = from_bits(_INVERSE - (base - _ONE))  # divided by the power of 2: 2**20 / smallest, exactly rounded
        small = truncate(from_bits(size) * inverse)
        code = (where(size >= smallest, size - base, small) + noise) >> _PLACES
        return (BYTE.encode(code | (to_bits(x) >> 24) & 0x80),)

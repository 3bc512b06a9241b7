"""Four bits a value: the codes of two neighbours in a byte, and a scale for each block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from gradstep.rules.base import Array, sqrt, where
from gradstep.storage.codecs import BLOCK, NOT_FINITE, Codec, Field
from gradstep.storage.elements import (
    BITS,
    BYTE,
    NIBBLES,
    SECOND_SLOTS,
    SLOTS,
    at_least,
    at_most,
    from_bits,
    to_bits,
    truncate,
)

_MANTISSA = 23  # places of a float32
_SIZE = 0x7FFFFFFF  # all bits but the sign
_ONE = 127 << _MANTISSA  # the bits of 1.0
_INFINITY = 0xFF << _MANTISSA
_OCTAVES = 7  # from the bits of _base() to the largest power of two of a block
_SIGN_AND_EXPONENT = -(2**31) | _OCTAVES << _MANTISSA


@final
@dataclass(frozen=True)
class FourBits(Codec):
    """Four bits, two codes a byte: a power of two for signed values, for others a root in steps of half an octave.

    A block of 256 has a scale of one byte, the biased exponent of a power of two s:

    - signed values: zero, or a sign and s / 2ᵏ, for k = 0 … 6;
    - non-negative values (second moments): their square roots, by which updates are divided, are s / 2ᵏ or 1.5 s / 2ᵏ,
      for k = 0 … 7. None is zero, unless the whole block is: smaller roots become s / 128, a 192nd of the largest.

    A value between two codes becomes one of them at random, the more likely the nearer it is; so the mean of signed
    values and of roots is exact. A first moment changes its size all the time, and needs range more than places. The
    two moments are rounded with separate noise.

    Infinity is stored as such, NaN as infinity in a signed slot (its parameter is NaN already). In a block with one of
    them signed values are zero or above 2¹²¹, and others are all infinite or NaN. The smallest code is at least 2⁻¹⁰²
    (signed) or 2⁻¹²⁶.
    """

    noisy = True
    fields = Field(NIBBLES, per=2), Field(BYTE, "scale4", BLOCK)
    signed: bool

    @property
    def name(self) -> str:
        return "4bit"

    @property
    def stream(self) -> int:
        return SLOTS if self.signed else SECOND_SLOTS

    @property
    def values(self) -> str:
        return "bfloat16"

    @property
    def _places(self) -> int:
        """Places of the mantissa that are not stored."""
        return _MANTISSA if self.signed else _MANTISSA - 1

    def _base(self, scale: Array) -> Array:
        """Return the bits of s / 128, in the shape of the scale; 0 in a block of second moments that are zero."""
        return where(scale > _OCTAVES, scale - _OCTAVES, 0) << _MANTISSA

    def scale(self, peak: Array) -> Array:
        # Within these bounds no code is subnormal, nor infinite unless the peak is.
        size = peak if self.signed else to_bits(sqrt(from_bits(peak))) & _SIZE
        rounded = (at_most(size, _INFINITY) + ((1 << self._places) - 1)) >> _MANTISSA
        least, most = (_OCTAVES + 24, NOT_FINITE - 1) if self.signed else (_OCTAVES + 64, 127 + 63)
        finite = at_most(at_least(rounded, least), most)
        return where(peak < _INFINITY, finite if self.signed else where(peak != 0, finite, 0), NOT_FINITE)

    def has_noise_bits_to_cut(self, scale: Array) -> Array | None:
        return scale == NOT_FINITE if self.signed else None

    def cut_noise_bits(self, x: Array, scale: Array) -> Array:
        # A NaN becomes infinity, whose sign is stored: that of a NaN differs between processors.
        return where(scale == NOT_FINITE, where(x == x, x, np.inf), x) if self.signed else x

    def join(self, *numbers: Array) -> Array:
        code, scale = numbers
        base = self._base(scale)
        if not self.signed:
            root = from_bits((code << self._places) + base)
            return root * root
        signed = code << 28 >> 5 & _SIGN_AND_EXPONENT  # moves the sign to bit 31
        return from_bits(where((signed & _SIZE) != 0, signed + base, signed))

    def split(self, x: Array, noise: Array, scale: Array = None) -> tuple[Array, ...]:
        base, places = self._base(scale), self._places
        noise = noise << places - BITS
        if not self.signed:
            root = to_bits(sqrt(x)) & _SIZE
            return ((at_most(at_least(root, base), base + (15 << places)) - base + noise) >> places,)
        size, smallest = at_most(to_bits(x) & _SIZE, base + (7 << places)), base + (1 << places)
        # A value below the smallest code becomes that code with a probability of their ratio, else zero.
        inverse = from_bits(((_ONE >> _MANTISSA) + _MANTISSA << _MANTISSA) - (smallest - _ONE))  # 2**23 / smallest
        small = truncate(from_bits(size) * inverse)
        code = (where(size >= smallest, size - base, small) + noise) >> places
        return (code | (to_bits(x) >> 28) & 8,)

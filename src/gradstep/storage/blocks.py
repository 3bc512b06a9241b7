"""Codecs in blocks: codes of a few bits each, relative to a scale that the elements of a block share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from gradstep.rules.ops import Array, where
from gradstep.storage.codecs import Codec, Field
from gradstep.storage.elements import BITS, BYTE, at_least, at_most, from_bits, to_bits, truncate

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

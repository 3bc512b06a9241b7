"""Codecs of bfloat16 and float16 numbers that lose less than rounding to nearest does: at random, or with more bits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from gradstep.rules.base import Array, where
from gradstep.storage.codecs import Elementwise, Field, Single
from gradstep.storage.elements import BITS, BYTE, ELEMENTS, BFloat16, Half, from_bits, to_bits


@final
@dataclass(frozen=True)
class Stochastic(Single):
    """Sixteen bits, rounded at random to one of two neighbours, so that the mean of many roundings is exact.

    Small changes are then sometimes stored instead of never: an average with β = 0.999 changes by 0.1% a step, and
    bfloat16 cannot store a change under 0.4%.

    Source: Gupta et al., "Deep Learning with Limited Numerical Precision", arXiv:1502.02551, section 3.
    """

    noisy = True
    element: Half

    def split(self, x: Array, noise: Array, scale: Array = None) -> tuple[Array, ...]:
        return (self.element.at_random(x, noise),)

    def expected_value(self, x: Array) -> Array:
        return x


@final
@dataclass(frozen=True)
class Kahan(Elementwise):
    """Sixteen bits and the rounding error in sixteen more bits: their sum is the value.

    The stored error is that of Kahan summation (Zamirai et al., "Revisiting BFloat16 Training", arXiv:2010.06192,
    Algorithm 3). The update acts on the sum, which has 16 or 17 places for bfloat16.
    """

    noisy = False
    element: Half

    @property
    def name(self) -> str:
        return f"{self.element.name} + compensation"

    @property
    def fields(self) -> tuple[Field, ...]:
        return Field(self.element), Field(self.element, "kahan_comp")

    def join(self, *numbers: Array) -> Array:
        rounded, rest = numbers
        return rounded + rest

    def split(self, x: Array, noise: Array, scale: Array = None) -> tuple[Array, ...]:
        code = self.element.encode(x)
        rest = x - self.element.decode(code)
        return code, self.element.encode(where(abs(rest) < np.inf, rest, 0.0))  # where x is infinite, rest is NaN

    def expected_value(self, x: Array) -> Array:
        return x


@final
@dataclass(frozen=True)
class Master(Elementwise):
    """Sixteen bits for the model, and a float32 master copy that is updated (Micikevicius et al., arXiv:1710.03740).

    If other code has changed the parameter, so that it is no longer the rounded master, the parameter's value is used.
    """

    noisy = False
    element: Half

    @property
    def name(self) -> str:
        return f"{self.element.name} + float32 master"

    @property
    def fields(self) -> tuple[Field, ...]:
        return Field(self.element), Field(ELEMENTS["float32"], "master_param")

    def join(self, *numbers: Array) -> Array:
        rounded, master = numbers
        return where(self.element.nearest(master) == rounded, master, rounded)

    def split(self, x: Array, noise: Array, scale: Array = None) -> tuple[Array, ...]:
        return self.element.encode(x), x

    def expected_value(self, x: Array) -> Array:
        return x


_SIZE = 0x7FFFFFFF  # all bits but the sign
_HALF_STEP = 1 << 15  # of bfloat16, in the bits of a float32
_EXPONENT = 0x7F800000  # all bits of it: infinity, and above it NaN


@final
@dataclass(frozen=True)
class LowByte(Elementwise):
    """A bfloat16 for the model, and a byte with the next eight bits of the value: 24 bits, rounded at random.

    The value is the upper 24 bits of a float32: a sign, 8 bits of exponent and 15 of mantissa. The byte holds the last
    8 bits of the mantissa, and the parameter is the value rounded to nearest (a tie away from zero). So byte ``b``
    belongs to the value that is ``b``, or ``b`` − 256 from 128 on, 256ths of a step of bfloat16 above the parameter
    (in magnitude).

    An update is rounded to 24 bits at random, as by :class:`Stochastic`: to nearest, a weight of 1 would lose every
    update under 1.5e-5.

    If other code has changed the parameter, the byte counts in steps of the new number, and is off by at most half of
    one. Zero, infinity and NaN are what they are, whatever the byte.
    """

    noisy = True
    element: BFloat16

    @property
    def name(self) -> str:
        return f"{self.element.name} + 8 bits"

    @property
    def fields(self) -> tuple[Field, ...]:
        return Field(self.element), Field(BYTE, "low_byte")

    def join(self, *numbers: Array) -> Array:
        rounded, byte = numbers
        bits = to_bits(rounded)
        size = bits & _SIZE
        rest = where(size != 0, ((byte ^ 0x80) - 0x80) << 8, 0)
        return from_bits(bits + where(size < _EXPONENT, rest, 0))

    def split(self, x: Array, noise: Array, scale: Array = None) -> tuple[Array, ...]:
        bits = to_bits(x)
        value = where(x == x, bits + (noise >> BITS - 8), bits)  # NaN plus noise might be another number
        rounded = where(x == x, (value + _HALF_STEP) & -2 * _HALF_STEP, bits)
        return self.element.encode(from_bits(rounded)), BYTE.encode(value >> 8 & 0xFF)

    def expected_value(self, x: Array) -> Array:
        return x

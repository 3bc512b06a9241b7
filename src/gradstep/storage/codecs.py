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

from gradstep.rules.ops import Array, where
from gradstep.storage.elements import BITS, BYTE, ELEMENTS, BFloat16, Element, Half, from_bits, to_bits


@final
@dataclass(frozen=True)
class Field:
    """One array of a codec.

    Attributes:
        element: its element type.
        suffix: the addition to the slot's name in the field's key of the state.
        per: how many elements of the parameter share one of its numbers. Only a scale may have more than one: engines
            refuse codes that are packed into a number.
    """

    element: Element
    suffix: str = ""
    per: int = 1

    def length(self, elements: int) -> int:
        """Return how many numbers this field has for so many elements of the parameter."""
        return -(-elements // self.per)

    def shape(self, parameter: Sequence[int]) -> tuple[int, ...]:
        """Return the shape of its array: the parameter's, or (blocks,).

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
        """The arrays of the codec; the first has the shape of the parameter.

        With scales, the first field has codes of one byte, and the last the scale of each block. No other codec has a
        field with the suffix of that one, since loading recognises the codec of a checkpoint by it.
        """

    @property
    def block(self) -> int:
        """The number of elements that share a scale: a power of 2, 16 to 16,384; 1 without scales."""
        return self.fields[-1].per

    @property
    def arithmetic(self) -> type[np.floating[Any]]:
        """The NumPy type that rules compute in."""
        return self.fields[0].element.arithmetic

    @property
    def values(self) -> str:
        """The name of an element type that has every stored value; a smaller one than float32 if possible."""
        return "float32"

    def nbytes(self, elements: int) -> int:
        """Return the bytes for a parameter of so many elements.

        >>> from gradstep.storage.elements import BFLOAT16
        >>> LowByte(BFLOAT16).nbytes(512)
        1536
        """
        return sum(f.element.itemsize * f.length(elements) for f in self.fields)

    @abstractmethod
    def join(self, *numbers: Array) -> Array:
        """Return the stored values from the numbers of each field; a block's scale is repeated for its elements."""

    @abstractmethod
    def split(self, x: Array, noise: Array, scale: Array = None) -> tuple[Array, ...]:
        """Return the codes of new values, for each field but the scale.

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

    def split(self, x: Array, noise: Array, scale: Array = None) -> tuple[Array, ...]:
        return (self.element.encode(x),)

    def expected_value(self, x: Array) -> Array:
        return self.element.nearest(x)

    @property
    def loses_small_updates(self) -> bool:
        return isinstance(self.element, Half)


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

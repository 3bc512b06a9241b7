"""Noise for rounding at random: a function of (seed, parameter, step, element), whoever computes it.

Each element gets a number per stream by mixing its own with two keys. A generator with a state of its own would give
other numbers for another number of threads, another order of tensors, or after a resume.

There are two streams, one for the parameter and one for all slots. The slots of an element are rounded by the same
number: where the first moment is rounded up so is the second, more often than not, which makes their ratio, and so the
update, err less than two numbers would.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gradstep.rules.ops import Array

BITS = 20
"""Random bits for each element."""

PARAMETER, SLOTS = 0x297A2D39, 0x29F4ECE7
"""The streams, by the second multiplier of each: odd numbers, and of 19 that were tried the pair that mixes best."""

STRIDE = 0x2C1B3C6D
"""How far :func:`placed` numbers of neighbours are apart."""

_MASK = 2**64 - 1


def keys(seed: int, parameters: NDArray[np.int64], steps: NDArray[np.int64]) -> NDArray[np.int64]:
    """(n,) a key of 64 bits for each parameter at its step.

    Args:
        seed: of the optimizer.
        parameters: the number of each parameter in the optimizer.
        steps: the number of this update of each.

    >>> k = keys(0, np.array([0, 0, 1]), np.array([1, 2, 1]))
    >>> len(set(k.tolist()))
    3
    """
    with np.errstate(over="ignore"):
        x = _mixed(np.full(len(steps), seed & _MASK, dtype=np.uint64) + np.uint64(0x9E3779B97F4A7C15))
        x = _mixed(x ^ parameters.astype(np.uint64))
        return _mixed(x ^ steps.astype(np.uint64)).view(np.int64)


def _mixed(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    # The finalizer of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    result: NDArray[np.uint64] = x ^ (x >> np.uint64(31))
    return result


def halves(key: int) -> tuple[int, int]:
    """The low and the high 32 bits of a key, as int32."""
    return int(np.int64(key) << 32 >> 32), int(np.int64(key) >> 32)


def placed(element: Array, low: Array) -> Array:
    """What :func:`mixed` takes: the place of each element in the sequence that its key chooses.

    Args:
        element: the number of each element in its parameter's memory, int32 (modulo 2³²).
        low: the lower half of the parameter's key.
    """
    return (element + low) * STRIDE


def mixed(place: Array, high: Array, stream: int) -> Array:
    """A random number for each element, int32 in 0 … 2²⁰ − 1.

    Args:
        place: from :func:`placed`.
        high: the upper half of the parameter's key.
        stream: PARAMETER or SLOTS.
    """
    # Multiply, fold, multiply, with constants that hash prospector (C. Wellons) found; only the upper bits, which both
    # multiplications have mixed, are used. The second key stands in the middle: two steps whose first keys are near
    # each other would else share their noise, some elements apart. Streams differ by their second multiplier: a sum
    # would only turn the highest bits of one into those of the other.
    x = place ^ _shifted(place, 12) ^ high
    return _shifted(x * stream, 32 - BITS)


def _shifted(x: Array, places: int) -> Array:
    """A shift that fills with zeros, also where int32 would fill with the sign."""
    return (x >> places) & ((1 << (32 - places)) - 1)

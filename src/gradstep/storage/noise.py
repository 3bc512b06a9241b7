"""Noise for rounding at random: a function of (seed, parameter, step, element), whoever computes it.

Each element gets 32 bits per stream by mixing its number with two keys. A generator with a state of its own would
give other numbers for another number of threads, another order of tensors, or after a resume.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gradstep.rules.ops import Array

BITS = 20
"""Random bits of one field. A stream of 32 has two: the highest bits of one are the lowest of the other, where they
decide next to nothing."""

_STREAM = 0x007ABFAE  # even, so that multipliers stay odd; small, for int32; of 19 such, the one that mixes best
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


def mixed(element: Array, low: Array, high: Array, stream: int) -> Array:
    """32 random bits for each element.

    Args:
        element: the number of each element in its parameter's memory, int32 (modulo 2³²).
        low, high: the halves of the parameter's key.
        stream: which 32 bits.
    """
    # Multiply, fold, multiply, fold, with constants that hash prospector (C. Wellons) found. The second key stands in
    # the middle: two steps whose first keys are near each other would else share their noise, some elements apart.
    # Streams differ by their second multiplier: a sum would only turn the highest bits of one into those of the other.
    x = (element + low) * 0x2C1B3C6D
    x = x ^ _shifted(x, 12) ^ high
    x = x * (0x297A2D39 + _STREAM * stream)
    return x ^ _shifted(x, 15)


def field(random: Array, index: int) -> Array:
    """The bits of one field of a stream, 0 or 1: int32 in 0 … 2²⁰ − 1."""
    return random & ((1 << BITS) - 1) if index == 0 else _shifted(random, 32 - BITS)


def _shifted(x: Array, places: int) -> Array:
    """A shift that fills with zeros, also where int32 would fill with the sign."""
    return (x >> places) & ((1 << (32 - places)) - 1)

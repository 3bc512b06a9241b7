"""Noise for rounding at random: a function of (seed, parameter, step, element) only.

Each element gets a random number per stream by mixing its index with two keys. A generator with a state would give
other numbers for another number of threads, another order of tensors, or after a resume.

There are two streams, one for the parameter and one for all slots. The slots of an element are rounded with the same
random number: where the first moment is rounded up, so is mostly the second, which makes the error of their ratio, and
so of the update, smaller than with two random numbers.
"""

from __future__ import annotations

from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from gradstep.rules.ops import Array

BITS = 20
"""Number of random bits for each element."""

NOISES = ("names", "positions")
"""What a parameter's noise depends on: its name if it has one, else its position; or always its position, as in older
checkpoints."""

PARAMETER, SLOTS = 0x297A2D39, 0x29F4ECE7
"""The second multiplier of each stream: odd numbers, the pair that mixes best of 19 tried."""

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
        stream: PARAMETER or SLOTS.
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

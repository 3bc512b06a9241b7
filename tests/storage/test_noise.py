"""Noise for rounding: uniform, and without anything in common between elements, steps, parameters and streams.

Every seed is fixed, so nothing here is left to chance: bounds are far out (|z| < 5), and defects go far beyond them.
"""

from itertools import combinations

import numpy as np
import pytest

from gradstep.storage.elements import (
    BITS,
    PARAMETER,
    SECOND_SLOTS,
    SLOTS,
    draw_noise,
    keys,
    sequence_position,
    split_key,
    streams,
)

STREAMS = [PARAMETER, SLOTS, SECOND_SLOTS]
N = 1 << 18
ELEMENTS = np.arange(N, dtype=np.int32)
KEYS = [int(k) for k in keys(streams(7, np.repeat(np.arange(3), 2)), np.tile([1, 2], 3))]


@pytest.fixture(autouse=True)
def wrap():
    """Whole numbers run over here, and are meant to."""
    with np.errstate(over="ignore"):
        yield


def noise(key, stream=SLOTS, elements=ELEMENTS):
    low, high = split_key(key)
    return draw_noise(sequence_position(elements, low), high, stream)


def z_of_correlation(a, b):
    """How many standard deviations the correlation of two independent samples is from 0."""
    return np.corrcoef(a, b)[0, 1] * len(a) ** 0.5


def chi_squared(numbers, bins):
    """Of how often each of so many numbers occurs, against all alike."""
    counts = np.bincount(numbers, minlength=bins)
    assert len(counts) == bins
    expected = len(numbers) / bins
    return ((counts - expected) ** 2 / expected).sum()


def z_of_counts(numbers, bins):
    """The same in standard deviations from what independent numbers give."""
    return (chi_squared(numbers, bins) - (bins - 1)) / (2 * (bins - 1)) ** 0.5


def dependence(a, b, places=4):
    """χ² of the pairs of highest bits as a share of the numbers: 0 for none of any kind, 15 for a function."""
    return chi_squared((a >> BITS - places << places) | b >> BITS - places, 1 << 2 * places) / len(a) - (
        (1 << 2 * places) / len(a)
    )


def assert_unrelated(a, b, most=0.005):
    """No linear relation that this many numbers show, and of no other kind as much as half a percent.

    Two multiplications are no cryptography: with samples large enough they are found out.
    """
    assert abs(z_of_correlation(a, b)) < 5
    assert abs(dependence(a, b)) < most


def test_by_hand():
    """Element 1 under the key 2 · 2³² + 3, worked out with Python's whole numbers."""
    x = 4 * 0x2C1B3C6D % 2**32
    found = draw_noise(sequence_position(np.array([1], np.int32), 3), 2, PARAMETER)
    assert found.dtype == np.int32
    assert int(found[0]) == ((x ^ x >> 12 ^ 2) * 0x297A2D39 % 2**32) >> 12


def test_halves_are_the_key():
    for key in KEYS:
        low, high = split_key(key)
        assert (high << 32) + low % 2**32 == key


@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize("key", KEYS)
def test_every_byte_is_uniform(key, stream):
    found = noise(key, stream)
    assert found.dtype == np.int32
    assert found.min() >= 0
    assert found.max() < 1 << BITS
    for place in (12, 6, 0):
        assert abs(z_of_counts(found >> place & 0xFF, 256)) < 5
    assert abs(found.mean() / (1 << BITS) - 0.5) < 5 / (12 * N) ** 0.5


@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize("lag", [1, 2, 3, 4, 16, 96, 255, 256, 257, 1024, 4096, 65_536])
def test_neighbours_in_a_row_column_or_block_are_unrelated(stream, lag):
    for key in KEYS[:3]:
        found = noise(key, stream)
        assert_unrelated(found[lag:], found[:-lag])


def test_steps_and_parameters_are_unrelated():
    for one, other in combinations(KEYS, 2):
        for stream in STREAMS:
            assert_unrelated(noise(one, stream), noise(other, stream))


def test_one_element_over_its_steps():
    """What one weight sees in 100,000 steps, the same or its neighbour's noise a step later."""
    steps = np.arange(1, 100_001)
    found = np.asarray(keys(streams(0, np.full(len(steps), 5)), steps))
    low, high = (found << 32 >> 32).astype(np.int32), (found >> 32).astype(np.int32)
    for stream in STREAMS:
        one, other = (draw_noise(sequence_position(np.int32(element), low), high, stream) for element in (1000, 1001))
        assert abs(z_of_counts(one >> 12, 256)) < 5
        for lag in (1, 2, 10):
            assert_unrelated(one[lag:], one[:-lag])
            assert_unrelated(one[lag:], other[:-lag])


def test_the_streams_are_unrelated():
    """Adding a number for each stream, as this did once, only turned the highest bits: a correlation of 0.95."""
    for key in KEYS:
        for one, other in combinations(STREAMS, 2):
            assert_unrelated(noise(key, one), noise(key, other))


def test_keys_that_differ_by_a_shift_do_not_share_their_noise():
    """The lower half of a key is added to the element's number: steps whose lower halves are near each other would
    have the same noise some elements apart, were it not for the upper half.
    """
    steps = np.arange(1, 20_001)
    found = np.asarray(keys(streams(3, np.zeros(len(steps), np.int64)), steps))
    low = (found << 32 >> 32).astype(np.int32).astype(np.int64)
    order = np.argsort(low)
    distance = np.diff(low[order])
    near = np.argsort(distance)[:20]
    for i in near:
        assert 0 <= distance[i] < N // 16
        one, other = int(found[order[i]]), int(found[order[i + 1]])
        moved = noise(one, elements=ELEMENTS + np.int32(distance[i]))
        assert abs(np.corrcoef(moved, noise(other))[0, 1]) < 0.05  # a few of the 20 pairs show 0.03
        assert dependence(moved, noise(other)) < 0.05


@pytest.mark.parametrize("what", ["seed", "parameter", "step"])
def test_every_bit_of_seed_parameter_and_step_changes_half_of_the_noise(what):
    """The avalanche: of 20 bits, each flips as often as not."""
    start = {"seed": 12345, "parameter": 3, "step": 77}

    def random(**given):
        given = start | given
        key = keys(streams(given["seed"], np.array([given["parameter"]])), np.array([given["step"]]))[0]
        return noise(int(key), elements=ELEMENTS[: 1 << 14])

    for bit in range(63 if what == "seed" else 31):
        flipped = random() ^ random(**{what: start[what] ^ 1 << bit})
        shares = [float((flipped >> place & 1).mean()) for place in range(BITS)]
        assert min(shares) > 0.45, bit
        assert max(shares) < 0.55, bit


@pytest.mark.parametrize("seed", [0, -1, 2**63, 2**64 - 1, 2**100])
def test_any_whole_number_is_a_seed(seed):
    found = keys(streams(seed, np.arange(1000)), np.full(1000, 1))
    assert found.dtype == np.int64
    assert len(set(found.tolist())) == 1000

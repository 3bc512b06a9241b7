"""Codecs of one element: what they keep, in how many bytes, and what happens at the ends of their range."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradstep.storage.codecs import Blocks, Codec, Elementwise, Nearest
from gradstep.storage.elements import BFLOAT16, BITS, ELEMENTS, Half
from gradstep.storage.halves import Kahan, LowByte, Master, Stochastic
from gradstep.storage.policy import parameter_codec, slot_codec
from tests.storage.test_rounding import half

INF = float("inf")
MOST = {"bfloat16": float.fromhex("0x1.fep127"), "float16": 65504.0}
KINDS = pytest.mark.parametrize("name", MOST)


def encoded(codec: Elementwise, x: Any, noise: int = 0) -> list[Any]:
    x = np.asarray(x, np.float32)
    with np.errstate(all="ignore"):  # as the engines do
        return list(codec.split(x, np.full(x.shape, noise, np.int32)))


def decoded(codec: Elementwise, arrays: Any) -> Any:
    return codec.join(*[field.element.decode(a) for field, a in zip(codec.fields, arrays, strict=True)])


def stored(codec: Elementwise, x: Any) -> Any:
    return decoded(codec, encoded(codec, x))


@pytest.mark.parametrize(
    ("codec", "bytes_each"),
    [
        (slot_codec("float32", ELEMENTS["bfloat16"], signed=True), 4),
        (slot_codec("bfloat16", ELEMENTS["float32"], signed=True), 2),
        (slot_codec("8bit", ELEMENTS["bfloat16"], signed=False), 257 / 256),
        (slot_codec("8bit", ELEMENTS["float64"], signed=False), 8),
        (parameter_codec("nearest", ELEMENTS["float16"]), 2),
        (parameter_codec("stochastic", ELEMENTS["bfloat16"]), 2),
        (parameter_codec("24bit", ELEMENTS["bfloat16"]), 3),
        (parameter_codec("24bit", ELEMENTS["float64"]), 8),
        (parameter_codec("kahan", ELEMENTS["bfloat16"]), 4),
        (parameter_codec("master", ELEMENTS["bfloat16"]), 6),
        (parameter_codec("kahan", ELEMENTS["float32"]), 4),
    ],
    ids=str,
)
def test_bytes(codec: Codec, bytes_each: float):
    assert codec.nbytes(1024) == bytes_each * 1024


@pytest.mark.parametrize(
    ("codec", "noisy"),
    [
        (Nearest(half("bfloat16")), False),
        (Stochastic(half("bfloat16")), True),
        (LowByte(BFLOAT16), True),
        (Kahan(half("bfloat16")), False),
        (Master(half("bfloat16")), False),
        (Blocks(signed=True), True),
    ],
    ids=str,
)
def test_who_draws_noise(codec: Codec, noisy: bool):
    assert codec.noisy is noisy


# -- a compensation ---------------------------------------------------------------------------------------------------


@given(x=st.floats(2.0**-100, MOST["bfloat16"], width=32), sign=st.sampled_from([1, -1]))
def test_kahan_keeps_17_places_of_bfloat16(x, sign):
    """8 and 8 and what the sign of the rest says: half of the last is 2⁻¹⁷ of the value."""
    found = float(stored(Kahan(half("bfloat16")), [sign * x])[0])
    assert abs(found - sign * x) <= x * (2.0**-17 + 2.0**-24)


@given(x=st.floats(0, MOST["float16"], width=32), sign=st.sampled_from([1, -1]))
def test_kahan_of_float16_ends_at_its_smallest_number(x, sign):
    """The rest is itself a float16, of steps of 2⁻²⁴: nothing is gained under 2⁻¹⁴, and 22 places only above ¼."""
    found = float(stored(Kahan(half("float16")), [sign * x])[0])
    assert abs(found - sign * x) <= max(x * 2.0**-22, 2.0**-25)


@KINDS
def test_kahan_shows_the_model_the_nearest_number(name):
    element = half(name)
    x = np.linspace(-3, 3, 1001, dtype=np.float32)
    np.testing.assert_array_equal(encoded(Kahan(element), x)[0], element.encode(x))


@KINDS
def test_kahan_beside_infinity(name):
    """A number that rounds to infinity leaves no rest: infinity less infinity would make it NaN at the next step."""
    beyond = 3.4e38 if name == "bfloat16" else 70_000.0
    found = stored(Kahan(half(name)), [INF, -INF, beyond, -beyond, float("nan")])
    np.testing.assert_array_equal(found, [INF, -INF, INF, -INF, np.nan])


# -- a byte of further bits -------------------------------------------------------------------------------------------

LOW_BYTE = LowByte(BFLOAT16)
UPPER = np.arange(1 << 16, dtype=np.uint32)


def cut(x: Any) -> Any:
    """The upper 24 bits of float32 numbers."""
    return (np.asarray(x, np.float32).view(np.uint32) & 0xFFFFFF00).view(np.float32)


@pytest.mark.parametrize("byte", [0, 1, 0x7F, 0x80, 0x81, 0xFF])
def test_24_bits_of_every_number(byte):
    """All numbers whose third byte is this one: as stored, whatever the noise, but for the ends of the range."""
    x = ((UPPER << 16) + (byte << 8)).view(np.float32)
    rounded, rest = encoded(LOW_BYTE, x, noise=(1 << BITS) - 1)
    found = decoded(LOW_BYTE, [rounded, rest])
    with np.errstate(invalid="ignore"):  # a NaN that signals
        size = np.abs(x.astype(np.float64))
        np.testing.assert_array_equal(np.isnan(found), np.isnan(x))
    tiny, huge = size < 2.0**-134, size >= MOST["bfloat16"] + 2.0**119  # rounded to 0, to infinity
    np.testing.assert_array_equal(found[~tiny & ~huge & ~np.isnan(x)], x[~tiny & ~huge & ~np.isnan(x)])
    assert (found[tiny] == 0).all()
    assert np.isinf(found[huge]).all()
    np.testing.assert_array_equal(np.signbit(found[~np.isnan(x)]), np.signbit(x[~np.isnan(x)]))


@given(x=st.floats(2.0**-126, MOST["bfloat16"], width=32), sign=st.sampled_from([1, -1]))
def test_the_model_gets_the_nearest_number(x, sign):
    """To the value that was stored, which is one of the two neighbours of 24 bits."""
    for noise in (0, 12_345, (1 << BITS) - 1):
        rounded, rest = encoded(LOW_BYTE, [sign * x], noise)
        value, shown = float(decoded(LOW_BYTE, [rounded, rest])[0]), float(BFLOAT16.decode(rounded)[0])
        step = 2.0 ** (np.floor(np.log2(x)) - 15)
        assert abs(value - sign * x) < step
        assert value == cut([value])[0]
        assert abs(shown - value) <= 128 * step * (2 if abs(shown) > abs(value) else 1)
        nearest = float(BFLOAT16.nearest(np.array([value], np.float32))[0])
        assert abs(shown - value) == abs(nearest - value)  # the same number, or the other one of a tie


@given(x=st.floats(1, 2, exclude_max=True, width=32))
def test_the_mean_of_24_bits_over_all_noise_is_the_value(x):
    """Exactly: 8 bits are dropped, and so many random bits are added."""
    noise = np.arange(1 << 8, dtype=np.int32) << BITS - 8
    found = decoded(LOW_BYTE, LOW_BYTE.split(np.full(noise.shape, x, np.float32), noise))
    assert float(found.astype(np.float64).mean()) == np.float32(x)


def test_24_bits_of_a_parameter_that_was_changed():
    """The byte counts in steps of the new number, at most half of one; zero and infinity are themselves."""
    _, rest = encoded(LOW_BYTE, [1.001, -2.0003, 0.3001, 5.003, 1.0039, -1.0039, 1.001])
    others = np.array([7.0, -0.1, 0.0, -0.0, INF, -INF, np.nan], np.float32)
    loaded = BFLOAT16.encode(others)
    assert (rest != 0).all()
    found = decoded(LOW_BYTE, [loaded, rest])
    np.testing.assert_array_equal(found[2:], others[2:])
    np.testing.assert_array_equal(np.signbit(found), np.signbit(others))
    near = BFLOAT16.nearest(others)[:2]
    assert (np.abs(found[:2] - near) <= np.abs(near) * 2.0**-8).all()


def test_24_bits_that_are_0_are_the_parameter():
    """State begins with zeros; a parameter without a byte is a bfloat16 number as it is."""
    rounded = UPPER.astype(np.uint16)
    found = decoded(LOW_BYTE, [rounded, np.zeros(1 << 16, np.uint8)])
    np.testing.assert_array_equal(found.view(np.uint32) >> 16, rounded)


# -- a master copy ----------------------------------------------------------------------------------------------------


@KINDS
@given(x=st.floats(width=32))
def test_master_is_the_value_itself(name, x):
    found = stored(Master(half(name)), [x])
    np.testing.assert_array_equal(found, np.array([x], np.float32))


@KINDS
def test_master_starts_anew_from_a_parameter_that_was_changed(name):
    codec: Elementwise = Master(half(name))
    element = half(name)
    rounded, master = encoded(codec, [1.001, -2.0003, 0.3001, 5.0])
    loaded = rounded.copy()
    loaded[1:] = element.encode(np.array([7.0, float("nan"), INF], np.float32))
    found = decoded(codec, [loaded, master])
    np.testing.assert_array_equal(found, np.array([1.001, 7.0, np.nan, INF], np.float32))


@KINDS
def test_a_master_in_the_same_gap_is_taken_for_unchanged(name):
    """What was written equals what stood there, so nobody can tell."""
    codec = Master(half(name))
    rounded, master = encoded(codec, [1.001])
    assert isinstance(codec.element, Half)
    np.testing.assert_array_equal(decoded(codec, [codec.element.encode(np.array([1.001], np.float32)), master]), master)
    assert decoded(codec, [rounded, master]) == np.float32(1.001)

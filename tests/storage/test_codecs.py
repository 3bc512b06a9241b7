"""Codecs of one element: what they keep, in how many bytes, and what happens at the ends of their range."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradstep.storage.codecs import Blocks, Codec, Elementwise, Kahan, Master, Nearest, Stochastic
from gradstep.storage.elements import ELEMENTS, Half
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

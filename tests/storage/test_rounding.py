"""Rounding to sixteen bits at random, against all 65,536 numbers of each type."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradstep.storage.elements import BITS, ELEMENTS, Half
from gradstep.storage.halves import Stochastic

LAST = (1 << BITS) - 1
EVERY_NOISE = np.arange(1 << BITS, dtype=np.int32)
ALL = np.arange(1 << 16, dtype=np.uint32)
MOST = {"bfloat16": (2.0 - 2.0**-7) * 2.0**127, "float16": 65504.0}
FEWEST = {"bfloat16": 2.0**-133, "float16": 2.0**-24}
SOME_NOISE = st.sampled_from([0, 1, 1 << BITS - 1, LAST]) | st.integers(0, LAST)


def half(name: str) -> Half:
    element = ELEMENTS[name]
    assert isinstance(element, Half)
    return element


def listed(name: str) -> Any:
    """Every number of the type but NaN, sorted, as NumPy and IEEE 754 have them."""
    with np.errstate(invalid="ignore"):
        found = (ALL << 16).view(np.float32) if name == "bfloat16" else ALL.astype(np.uint16).view(np.float16)
        wide = found.astype(np.float64)
    return np.unique(wide[~np.isnan(wide)])


NUMBERS = {name: listed(name) for name in MOST}
KINDS = pytest.mark.parametrize("name", MOST)


def rounded(name: str, x: Any, noise: Any) -> Any:
    """As stored, and read again."""
    x = np.asarray(x, np.float32)
    codec = Stochastic(half(name))
    (code,) = codec.split(x, np.broadcast_to(np.int32(noise), x.shape))
    assert code.itemsize == 2
    return codec.join(codec.element.decode(code)).astype(np.float64)


def over_all_noise(name: str, x: float) -> Any:
    return rounded(name, np.full(len(EVERY_NOISE), x), EVERY_NOISE)


def sizes(name: str) -> Any:
    """float32 numbers of every magnitude that the type has, subnormal ones too."""
    exponents = st.integers(-149, 127) if name == "bfloat16" else st.integers(-50, 15)
    number = st.tuples(st.floats(1, 2, exclude_max=True, width=32), exponents, st.sampled_from([1, -1]))
    return number.map(lambda drawn: float(np.float32(drawn[0] * drawn[2] * 2.0 ** drawn[1])))


@KINDS
@given(data=st.data(), noise=SOME_NOISE)
def test_one_of_the_two_neighbours(name, data, noise):
    x = data.draw(sizes(name))
    numbers = NUMBERS[name]
    pair = {numbers[numbers <= x].max(), numbers[numbers >= x].min()}
    assert float(rounded(name, [x], noise)[0]) in pair


@KINDS
@given(data=st.data())
@settings(max_examples=15)
def test_the_mean_over_all_noise_is_the_value(name, data):
    """Exactly, for as many places as are dropped; under them, to a part in 2¹³ of the smallest number."""
    x = data.draw(sizes(name).filter(lambda x: abs(x) <= MOST[name]))
    found = over_all_noise(name, x)
    tiny = abs(x) < 2.0**-14 and name == "float16"
    assert abs(found.mean() - x) <= (FEWEST[name] * 2.0**-13 if tiny else 0.0)
    assert (np.diff(np.abs(found)) >= 0).all() or (np.diff(found) >= 0).all()


@KINDS
@pytest.mark.parametrize("noise", [0, 1, 1 << BITS - 1, LAST])
def test_what_can_be_stored_stays(name, noise):
    """Every number of the type, with the two infinities; the sign of a zero is not kept by every type."""
    found = rounded(name, NUMBERS[name], noise)
    np.testing.assert_array_equal(found, NUMBERS[name])


def test_subnormal_float16_stay_for_every_noise():
    for count in (1, 513, 1023):
        assert set(over_all_noise("float16", count * 2.0**-24)) == {count * 2.0**-24}


@KINDS
def test_negative_zero_and_nan(name):
    for noise in (0, LAST):
        zeros = rounded(name, [0.0, -0.0], noise)
        assert zeros.tolist() == [0.0, 0.0]
        nans = np.array([0x7FC00000, 0x7FFFFFFF, -1, 0x7FFFE000], np.int32).view(np.float32)
        assert np.isnan(rounded(name, nans, noise)).all()


@KINDS
def test_overflow(name):
    """Beyond the largest number the neighbour above is infinity, and further out it is certain."""
    most = MOST[name]
    beyond = 2.0**128 if name == "bfloat16" else 65536.0
    x = most + (beyond - most) / 4
    found = over_all_noise(name, x)
    assert set(found) == {most, float("inf")}
    assert np.isinf(found).mean() == pytest.approx(0.25, abs=1e-3)
    if name == "float16":
        assert set(over_all_noise(name, 65536.0)) == {float("inf")}
        assert set(over_all_noise(name, -1e30)) == {-float("inf")}

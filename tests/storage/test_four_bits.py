"""Codes of 4 bits, each against a table of all values of its block that is written down here."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from gradstep.engines.reference import NumPyArrays
from gradstep.storage.codecs import BLOCK
from gradstep.storage.elements import BITS, NIBBLES, to_bits
from gradstep.storage.four_bits import FourBits

Floats = NDArray[np.float64]
LAST = (1 << BITS) - 1
EVERY_NOISE = np.arange(1 << BITS, dtype=np.int32)
KINDS = [pytest.param(FourBits(signed), id="signed" if signed else "non-negative") for signed in (True, False)]
ONE = 134
"""The biased exponent of 128: the scale of a block whose smallest signed code is 2, and whose smallest root is 1."""

MAGNITUDES = [0.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0]
ROOTS = [1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0, 48.0, 64.0, 96.0, 128.0, 192.0]
TABLE = {True: MAGNITUDES + [-x for x in MAGNITUDES], False: [x * x for x in ROOTS]}


@pytest.fixture(autouse=True)
def quiet():
    with np.errstate(all="ignore"):
        yield


def scale_of(codec: FourBits, x: Any) -> Any:
    return codec.scale((to_bits(np.asarray(x, np.float32)) & 0x7FFFFFFF).max(keepdims=True))


def stored(codec: FourBits, x: Any, noise: Any) -> Floats:
    """One block after its way through codes."""
    x = np.asarray(x, np.float32)
    scale = scale_of(codec, x)
    (codes,) = codec.split(x, np.broadcast_to(np.int32(noise), x.shape), scale)
    assert codes.dtype == np.int32
    assert ((codes >= 0) & (codes <= 15)).all()
    found: Floats = codec.join(codes, scale).astype(np.float64)
    return found


def over_all_noise(codec: FourBits, x: float, peak: float) -> Floats:
    """The results for ``x`` in a block with this peak, for every noise there is."""
    scale = scale_of(codec, [x, peak])
    (codes,) = codec.split(np.full(len(EVERY_NOISE), x, np.float32), EVERY_NOISE, scale)
    found: Floats = codec.join(codes, scale).astype(np.float64)
    return found


@pytest.mark.parametrize("codec", KINDS)
def test_codes_by_hand(codec):
    codes = np.arange(16, dtype=np.int32)
    assert codec.join(codes, np.array([ONE], np.int32)).tolist() == TABLE[codec.signed]
    assert codec.join(codes[:1], np.array([0], np.int32)).tolist() == [0.0]


@pytest.mark.parametrize(
    ("signed", "peak", "scale"),
    [
        (True, 1.0, 127),  # exactly the largest code
        (True, 1.0001, 128),
        (True, 2.0, 128),
        (True, 0.0, 31),  # the least
        (True, 3.0e38, 254),
        (True, float("inf"), 255),
        (True, float("nan"), 255),
        (False, 1.0, 127),  # the root of it; s is 1, the largest code 1.5
        (False, 2.25, 127),
        (False, 2.26, 128),
        (False, 0.0, 0),
        (False, 1e-45, 71),  # the least: the square of the smallest code is 2⁻¹²⁶
        (False, float("inf"), 255),
        (False, float("nan"), 255),
    ],
)
def test_scales_by_hand(signed, peak, scale):
    assert scale_of(FourBits(signed), [peak]).tolist() == [scale]


@pytest.mark.parametrize("codec", KINDS)
@given(data=st.data())
@settings(max_examples=30)
def test_every_value_becomes_one_of_its_two_neighbours(codec, data):
    """And by chance in such shares that the mean of values, or of roots, is exact."""
    peak = 2.0 ** data.draw(st.integers(-90, 120)) * data.draw(st.floats(1, 2, exclude_max=True, width=32))
    x = float(np.float32(peak * 2.0 ** -data.draw(st.floats(0, 12, width=32))))
    found = over_all_noise(codec, x, peak)
    unit = 2.0 ** (int(scale_of(codec, [x, peak])[0]) - ONE)
    levels = np.array(MAGNITUDES if codec.signed else ROOTS) * unit
    exact = x if codec.signed else float(np.sqrt(np.float32(x)))
    found = found if codec.signed else np.sqrt(found)
    below, above = levels[levels <= exact].max(initial=levels[0]), levels[levels >= exact].min()
    assert set(found) <= {below, above}
    assert found.mean() == pytest.approx(max(exact, levels[0]), abs=2e-6 * (above - below) + 1e-6 * exact)


@pytest.mark.parametrize("noise", [0, LAST])
@pytest.mark.parametrize("codec", KINDS)
def test_what_was_stored_stays(codec, noise):
    values = TABLE[codec.signed]
    assert stored(codec, values, noise).tolist() == values


@pytest.mark.parametrize("codec", KINDS)
@given(numbers=st.lists(st.floats(0, 2.0**127, width=32), min_size=1, max_size=20), noise=st.sampled_from([0, LAST]))
def test_zero_is_exact_and_nothing_non_negative_becomes_zero(codec, numbers, noise):
    x = np.array(numbers, np.float32)
    found = stored(codec, x, noise)
    if codec.signed or not x.any():
        assert (found[x == 0] == 0).all()
    else:
        assert (found >= 2.0**-126).all()
    assert np.isfinite(found).all()


def test_infinity_and_nan():
    inf, nan = float("inf"), float("nan")
    for noise in (0, LAST):
        assert stored(FourBits(signed=True), [inf, -inf, 1.0, 0.0, -1.0], noise).tolist() == [inf, -inf, 0.0, 0.0, 0.0]
        assert abs(stored(FourBits(signed=True), [nan, 1.0], noise)).tolist() == [inf, 0.0]
        found = stored(FourBits(signed=False), [inf, nan, -nan, 1.0], noise)
        assert found[[0, 3]].tolist() == [inf, inf]
        assert np.isnan(found[1:3]).all()
    payloads = np.array([0x7FC00001, 0x7FFFFFFF, -1], np.int32).view(np.float32)  # the last two are CUDA's
    assert np.isnan(stored(FourBits(signed=False), payloads, LAST)).all()


@pytest.mark.parametrize("x", [1.99 * 2.0**126, 2.0**127, 1.9375 * 2.0**127])
def test_finite_numbers_stay_finite(x):
    assert set(over_all_noise(FourBits(signed=True), x, 1.0)) <= {2.0**126, 2.0**127}
    assert np.isfinite(over_all_noise(FourBits(signed=False), x, 1.0)).all()


def test_two_codes_share_a_byte():
    assert NIBBLES.encode(np.array([1, 2, 15, 0, 7], np.int32)).tolist() == [0x21, 0x0F, 0x07]
    assert NIBBLES.decode(np.array([0x21, 0x0F, 0x07], np.uint8)).tolist() == [1, 2, 15, 0, 7, 0]


@pytest.mark.parametrize(("elements", "nbytes"), [(1, 2), (255, 129), (256, 129), (257, 131), (512, 258)])
def test_bytes(elements, nbytes):
    assert FourBits(signed=True).nbytes(elements) == nbytes


@pytest.mark.parametrize("elements", [1, 2, 255, 256, 257, 515])
def test_an_array_of_any_length_comes_back(elements):
    arrays, codec = NumPyArrays(), FourBits(signed=True)
    x = np.resize(np.array(TABLE[True], np.float32)[::-1], elements)  # each block begins with its largest
    codes, scales = arrays.codes(codec, x, np.full(elements, LAST, np.int32), x)
    assert (codes.shape, scales.shape) == ((-(-elements // 2),), (-(-elements // BLOCK),))
    np.testing.assert_array_equal(arrays.value(codec, [codes, scales], x), x)


@pytest.mark.parametrize("codec", KINDS)
def test_a_nan_has_one_code_whatever_its_sign(codec):
    """The sign of a NaN is another one on x86 than on Arm and on a card; the state must not be."""
    one, other = (NumPyArrays().codes(codec, x, np.zeros(2, np.int32), x) for x in signed_nans())
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


def signed_nans():
    return [np.array([np.copysign(np.nan, sign), -1.0], np.float32) for sign in (1, -1)]

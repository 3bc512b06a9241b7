"""Eight bits in blocks, against codes listed by formula: neighbours, no bias, and what must never be rounded."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from gradstep.engines.reference import NumPyArrays
from gradstep.storage.codecs import BLOCK, Blocks
from gradstep.storage.elements import BITS

LAST = (1 << BITS) - 1
EVERY_NOISE = np.arange(1 << BITS, dtype=np.int32)
CODES = np.arange(256, dtype=np.int32)
KINDS = [pytest.param(Blocks(signed=True), id="signed"), pytest.param(Blocks(signed=False), id="non-negative")]
LARGEST = float(np.finfo(np.float32).max)
SOME_NOISE = st.sampled_from([0, 1, 1 << BITS - 1, LAST]) | st.integers(0, LAST)
Floats = NDArray[np.floating[Any]]


def listed(codec: Blocks, scale: int) -> Floats:
    """What each of the 256 codes means, by the formula in the docstring."""
    octaves, sign = (16, 128) if codec.signed else (32, 256)
    result = []
    for code in range(256):
        exponent, mantissa = divmod(code % sign, 8)
        exponent += scale - 127 - (octaves - 1)
        size = (1 + mantissa / 8) * 2.0**exponent if code % sign else 0.0
        if exponent == 128:
            size = float("nan") if mantissa else float("inf")
        result.append(-size if code >= sign else size)
    return np.array(result)


def scale_of(codec: Blocks, x: Any) -> int:
    return int(codec.scale(abs(np.asarray(x, np.float32)).view(np.int32).max()))


def values(codec: Blocks, codes: Any, scale: Any) -> Floats:
    found: Floats = codec.join(np.asarray(codes, np.int32), scale).astype(np.float64)
    return found


def stored(codec: Blocks, x: Any, noise: Any) -> Floats:
    """One block after its way through memory."""
    x = np.asarray(x, np.float32)
    scale = np.int32(scale_of(codec, x))
    (codes,) = codec.split(codec.cut_noise_bits(x, scale), np.broadcast_to(np.int32(noise), x.shape), scale)
    assert codes.dtype == np.uint8
    return values(codec, codes, scale)


def over_all_noise(codec: Blocks, x: float, peak: float) -> Floats:
    """What ``x`` becomes in a block whose largest is ``peak``, for every noise there is."""
    scale = np.int32(scale_of(codec, [x, peak]))
    every = codec.cut_noise_bits(np.full(len(EVERY_NOISE), x, np.float32), scale)
    (codes,) = codec.split(every, EVERY_NOISE, scale)
    return values(codec, codes, scale)


def neighbours(codec: Blocks, x: float, scale: int) -> tuple[float, float]:
    """The codes' values on both sides, by looking at all of them; twice the same where x is one."""
    numbers = np.unique(listed(codec, scale))
    numbers = numbers[~np.isnan(numbers)]
    if not codec.signed and x > 0:
        numbers = numbers[numbers > 0]
        if x < numbers[0]:
            return float(numbers[0]), float(numbers[0])
    return float(numbers[numbers <= x].max()), float(numbers[numbers >= x].min())


@st.composite
def block(draw: Any, *, signed: bool, most: int = 20) -> Floats:
    """Numbers up to 45 octaves under a largest one, which is anything from subnormal to just under infinity."""
    peak = draw(st.integers(-149, 127))
    number = st.tuples(st.floats(1, 2, exclude_max=True, width=32), st.integers(-45, 0), st.booleans())
    drawn = draw(st.lists(number, min_size=1, max_size=most))
    x = [m * 2.0 ** (peak + e) * (-1 if signed and negative else 1) for m, e, negative in drawn]
    return np.array([*x, 0.0], np.float32)


# -- codes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("signed", "code", "value"),
    [
        (True, 0b0_1111_000, 1.0),
        (True, 0b0_1111_111, 1.875),
        (True, 0b1_1110_100, -0.75),
        (True, 0b0_0000_001, 1.125 * 2.0**-15),
        (True, 0b1_0000_000, 0.0),
        (False, 0b11111_000, 1.0),
        (False, 0b11110_001, 0.5625),
        (False, 0b00000_001, 1.125 * 2.0**-31),
        (False, 0, 0.0),
    ],
)
def test_codes_by_hand(signed, code, value):
    assert Blocks(signed).join(np.array([code], np.int32), np.int32(127)).tolist() == [value]


@pytest.mark.parametrize("codec", KINDS)
def test_every_code_under_every_scale(codec):
    for scale in range(34 if codec.signed else 32, 256):
        with np.errstate(invalid="ignore"):  # a NaN whose first bit of mantissa is 0 is a signalling one
            found = codec.join(CODES, np.int32(scale)).astype(np.float64)
        np.testing.assert_array_equal(found, listed(codec, scale), str(scale))


@pytest.mark.parametrize(
    ("peak", "scale"),
    [
        (1.0, 127),
        (1.875, 127),
        (1.8750001, 128),  # may round up to 2
        (-2.5, 128),
        (0.0, 34),
        (1e-45, 34),
        (1.875 * 2.0**127, 254),
        (LARGEST, 255),
        (float("inf"), 255),
        (float("nan"), 255),
    ],
)
def test_scales_by_hand(peak, scale):
    assert scale_of(Blocks(signed=True), [peak]) == scale


def test_bytes():
    """A block is 257 bytes, a part of one keeps a scale of its own: AdamW's two moments are under 2.05 a parameter."""
    codec = Blocks(signed=True)
    assert [codec.nbytes(n) for n in (1, 256, 257, 512)] == [2, 257, 259, 514]
    assert 2 * codec.nbytes(25_000_000) / 25_000_000 < 2.01


def test_blocks_are_cut_every_256_elements():
    """Three blocks and a part of one, each at its own magnitude: none is disturbed by another."""
    arrays, codec = NumPyArrays(), Blocks(signed=True)
    x = np.concatenate([np.full(n, 2.0**e, np.float32) for n, e in ((BLOCK, 90), (BLOCK, -60), (BLOCK, 0), (3, 30))])
    codes, scales = arrays.codes(codec, x, np.full(len(x), LAST, np.int32), x)
    assert scales.tolist() == [127 + 90, 127 - 60, 127, 127 + 30]
    np.testing.assert_array_equal(arrays.value(codec, [codes, scales], x), x)


# -- rounding ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", KINDS)
@given(data=st.data())
def test_every_value_becomes_one_of_its_two_neighbours(codec, data):
    x = data.draw(block(signed=codec.signed))
    scale = scale_of(codec, x)
    for value, found in zip(x.tolist(), stored(codec, x, data.draw(SOME_NOISE)).tolist(), strict=True):
        assert found in neighbours(codec, value, scale), value


@pytest.mark.parametrize("codec", KINDS)
@given(data=st.data())
@settings(max_examples=25)
def test_the_mean_over_all_noise_is_the_value(codec, data):
    """Exactly between two codes; under the smallest code to a part in 2²⁰ of it (signed), or never (non-negative)."""
    x, peak = (float(v) for v in data.draw(block(signed=codec.signed, most=1))[[0, 0]])
    peak *= 2.0 ** data.draw(st.integers(0, 40))
    if abs(peak) > 1.875 * 2.0**127:
        peak = 1.875 * 2.0**127
        x = min(max(x, -peak), peak)
    smallest = min(v for v in listed(codec, scale_of(codec, [x, peak])) if v > 0)
    found = over_all_noise(codec, x, peak)
    if abs(x) >= smallest or x == 0:
        assert found.mean() == x
    elif codec.signed:
        assert abs(found.mean() - x) <= smallest * 2.0**-BITS
        assert set(np.abs(found)) <= {0.0, smallest}
    else:
        assert set(found) == {smallest}
    turns = np.diff(np.abs(found))
    assert (turns >= 0).all() or (turns <= 0).all()


@pytest.mark.parametrize("codec", KINDS)
@given(data=st.data())
def test_larger_values_never_become_smaller_ones(codec, data):
    x = np.sort(data.draw(block(signed=codec.signed)))
    assert (np.diff(stored(codec, x, data.draw(SOME_NOISE))) >= 0).all()


@pytest.mark.parametrize("codec", KINDS)
@given(data=st.data())
def test_zero_is_exact_and_nothing_non_negative_becomes_zero(codec, data):
    x = np.append(data.draw(block(signed=codec.signed)), np.float32(-0.0))
    found = stored(codec, x, data.draw(SOME_NOISE))
    assert (found[x == 0] == 0).all()
    if not codec.signed:
        assert (found[x > 0] > 0).all()


@pytest.mark.parametrize("codec", KINDS)
@pytest.mark.parametrize("noise", [0, 1, LAST // 3, LAST])
def test_what_was_stored_stays_under_any_scale_that_reaches_it(codec, noise):
    """Noise is added once per change of a value and not once per step, also when a block's largest comes or goes."""
    lowest = 34 if codec.signed else 32
    for scale in range(lowest, 255, 20):
        numbers = listed(codec, scale)
        for other in range(max(lowest, scale - 9), min(254, scale + 9) + 1):
            x = np.append(numbers[np.abs(numbers) < 2.0 ** (other - 126)], 2.0 ** (other - 127))
            assert scale_of(codec, x) == other
            smallest = listed(codec, other)[1]
            reached = (np.abs(x) >= smallest) | (x == 0)
            assert reached.sum() > 64
            np.testing.assert_array_equal(stored(codec, x, noise)[reached], x[reached])


@pytest.mark.parametrize("codec", KINDS)
@given(value=st.floats(2.0**-100, 2.0**127, width=32), noise=SOME_NOISE)
def test_a_constant_block_is_within_an_eighth(codec, value, noise):
    found = stored(codec, np.full(BLOCK, value), noise)
    assert len(set(found)) == 1
    assert abs(found[0] - value) <= value / 8


@pytest.mark.parametrize("codec", KINDS)
def test_one_outlier(codec):
    """It costs the others no precision, only range."""
    ones = np.full(BLOCK, 1.1)
    near, far = ones.copy(), ones.copy()
    near[7], far[7] = 2.0**14, 2.0**30 if codec.signed else 2.0**40
    noise = np.arange(BLOCK) * (LAST // (BLOCK - 1))
    found = np.delete(stored(codec, near, noise), 7)
    assert set(found) == {1.0, 1.125}
    assert found.mean() == pytest.approx(1.1, rel=1e-3)
    found = np.delete(stored(codec, far, noise), 7)
    smallest = 1.125 * 2.0 ** (15 if codec.signed else 9)
    assert set(found) == ({0.0, smallest} if codec.signed else {smallest})


# -- not finite -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", KINDS)
@pytest.mark.parametrize("payload", [0x7FC00000, 0x7FC00001, 0x7FFFE000, 0x7FFFFFFF], ids=hex)
def test_nan_stays_nan(codec, payload):
    """0x7FC00000 is x86's and ARM's, 0x7FFFFFFF is CUDA's, 0x7FFFE000 the widened float16 of that."""
    nan = np.array([payload], np.int32).view(np.float32)
    for sign in (1, -1):
        x = np.array([np.copysign(nan[0], sign), 1.0, 0.0], np.float32)
        for noise in (0, 1, LAST):
            found = stored(codec, x, noise)
            assert np.isnan(found[0])
            assert np.isfinite(found[1:]).all()


@pytest.mark.parametrize("codec", KINDS)
@pytest.mark.parametrize("noise", [0, 1, LAST])
def test_infinity_stays_infinity(codec, noise):
    x = np.array([float("inf"), -float("inf") if codec.signed else float("inf"), 2.0**120, 0.0], np.float32)
    np.testing.assert_array_equal(stored(codec, x, noise), x)


@pytest.mark.parametrize("codec", KINDS)
def test_the_largest_numbers(codec):
    """The neighbour above 1.875 · 2¹²⁷ is infinity: what is finite is cut off there, and does not become it."""
    for x in (1.875 * 2.0**127, 1.9375 * 2.0**127, LARGEST):
        assert set(over_all_noise(codec, x, 1.0)) == {1.875 * 2.0**127}


@pytest.mark.parametrize("codec", KINDS)
def test_subnormal_numbers(codec):
    """They lie under every smallest code."""
    found = over_all_noise(codec, 1e-40, 1e-39)  # for signed codes under 2⁻²⁰ of the smallest, which noise cannot show
    assert set(found) == ({0.0} if codec.signed else {1.125 * 2.0**-126})


def test_moments_rounded_by_the_same_number_err_less_together():
    """Their ratio, which an update is, errs less than with a number for each, and neither errs on average."""
    random = np.random.default_rng(0)
    count = 256 * BLOCK
    m, v = random.normal(size=count), random.normal(size=count) ** 2 + 0.01
    first, second = random.integers(0, LAST + 1, (2, count), dtype=np.int32)

    def error(noise_of_v: Any) -> Floats:
        pairs = zip(*(np.split(a, 256) for a in (m, v, first, noise_of_v)), strict=True)
        found = [
            stored(Blocks(signed=True), a, x) / np.sqrt(stored(Blocks(signed=False), b, y)) for a, b, x, y in pairs
        ]
        exact = m / np.sqrt(v)
        return (np.concatenate(found) - exact)[abs(m) > 0.01] / exact[abs(m) > 0.01]

    together, apart = error(first), error(second)
    assert together.std() < 0.95 * apart.std()
    assert abs(together.mean()) < 0.001

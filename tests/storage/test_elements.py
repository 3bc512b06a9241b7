"""The codecs, over every 16-bit code and the float32 numbers between each two of them; the oracle is torch."""

import numpy as np
import pytest
import torch

from gradstep.storage.elements import ELEMENTS

CODES = np.arange(2**16, dtype=np.uint16)
HALVES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


def as_torch(name, codes):
    """The 16-bit codes as a torch tensor of that type."""
    return torch.from_numpy(codes.view(np.int16)).view(HALVES[name])


def decoded(name, codes):
    element = ELEMENTS[name]
    return element.decode(codes.view(element.stored))


def same(ours, theirs):
    """Equal in every bit, where every NaN is as good as another."""
    nan = np.isnan(ours)
    np.testing.assert_array_equal(nan, np.isnan(theirs))
    np.testing.assert_array_equal(ours.view(np.uint32)[~nan], theirs.view(np.uint32)[~nan])


@pytest.mark.parametrize("name", HALVES)
def test_decode_every_code(name):
    same(decoded(name, CODES), as_torch(name, CODES).float().numpy())


@pytest.mark.parametrize("name", HALVES)
def test_every_number_survives_the_round_trip(name):
    x = decoded(name, CODES)
    codes = ELEMENTS[name].encode(x).view(np.uint16)
    number = ~np.isnan(x)
    np.testing.assert_array_equal(codes[number], CODES[number])
    assert np.isnan(decoded(name, codes[~number])).all()


@pytest.mark.parametrize("name", HALVES)
def test_rounding_between_every_two_neighbours(name):
    """The middle (a tie), the float32 just below and just above it, and the neighbours of the code itself."""
    x = decoded(name, CODES)
    x = x[np.isfinite(x)]
    up = decoded(name, (ELEMENTS[name].encode(x).view(np.uint16) + 1).astype(np.uint16))
    with np.errstate(all="ignore"):
        middle = np.where(np.isfinite(up), x + (up - x) / 2, x)
        steps = [f(y, np.float32(to)) for f in (np.nextafter,) for y in (x, middle) for to in (-np.inf, np.inf)]
    many = np.concatenate([x, middle, *steps]).astype(np.float32)
    theirs = torch.from_numpy(many).to(HALVES[name]).float().numpy()
    same(decoded(name, ELEMENTS[name].encode(many).view(np.uint16)), theirs)


@pytest.mark.parametrize("name", HALVES)
def test_extremes(name):
    x = np.array([np.inf, -np.inf, 0.0, -0.0, 3.4e38, -3.4e38, 1e-45, -1e-45, np.nan, 65519.9, 65520.0], np.float32)
    theirs = torch.from_numpy(x).to(HALVES[name]).float().numpy()
    same(decoded(name, ELEMENTS[name].encode(x).view(np.uint16)), theirs)


@pytest.mark.parametrize("payload", [0x7F800001, 0x7FFFFFFF, 0xFFFFFFFF, 0xFF800001, 0x7F80FFFF])
def test_nan_of_any_payload_stays_nan(payload):
    x = np.array([payload], np.uint32).view(np.float32)
    for name in HALVES:
        assert np.isnan(decoded(name, ELEMENTS[name].encode(x).view(np.uint16))).all()


@pytest.mark.parametrize("name", ["float32", "float64"])
def test_full_widths_are_untouched(name):
    element = ELEMENTS[name]
    x = np.array([0.1, -0.0, np.inf], element.stored)
    assert element.decode(x) is x
    assert element.encode(x) is x
    assert element.arithmetic is element.stored


@pytest.mark.parametrize(("name", "size"), [("float32", 4), ("float64", 8), ("float16", 2), ("bfloat16", 2)])
def test_size(name, size):
    assert ELEMENTS[name].itemsize == size == torch.empty(0, dtype=getattr(torch, name)).element_size()

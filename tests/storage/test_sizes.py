"""Numbers of bytes as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradstep.storage.sizes import parse_bytes, show_bytes


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("512MB", 512 * 10**6),
        ("512MiB", 512 * 2**20),
        ("1.5 GB", 1_500_000_000),
        ("0.1TB", 10**11),
        (".5KiB", 512),
        (" 24gb ", 24 * 10**9),
        ("1_000", 1000),
        ("7B", 7),
        ("0", 0),
        (123, 123),
        ("9007199254740993", 9007199254740993),  # 2⁵³ + 1, which no float holds
    ],
)
def test_sizes(text, size):
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "MB", "12 elephants", "-1MB", "1e9", "1.MB", "512 M", "nan", "1 2MB", "１MB"])
def test_no_sizes(text):
    with pytest.raises(ValueError, match="Invalid size"):
        parse_bytes(text)


@pytest.mark.parametrize("thing", [True, 1.5, None, b"1MB"])
def test_other_types(thing):
    with pytest.raises(TypeError, match="Invalid size"):
        parse_bytes(thing)


def test_negative():
    with pytest.raises(ValueError, match="at least 0"):
        parse_bytes(-1)


@given(st.integers(0, 10**18))
def test_shown_and_read_back_to_three_figures(size):
    assert abs(parse_bytes(show_bytes(size)) - size) <= size * 0.0051

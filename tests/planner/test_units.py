"""GB is 10⁹ bytes, GiB is 2³⁰."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradstep.planner.request import is_binary, parse_size
from gradstep.report.words import size


@pytest.mark.parametrize(
    ("amount", "decimal", "binary"),
    [
        (0, "0 B", "0 B"),
        (999, "999 B", "999 B"),
        (1000, "1.0 KB", "1000 B"),
        (1024, "1.0 KB", "1.00 KiB"),
        (999_949, "999.9 KB", "976.51 KiB"),
        (999_950, "1.0 MB", "976.51 KiB"),
        (10**9, "1.0 GB", "953.67 MiB"),
        (2**30, "1.1 GB", "1.00 GiB"),
        (2**40, "1.1 TB", "1.00 TiB"),
        (10**16, "10,000.0 TB", "9,094.95 TiB"),
    ],
)
def test_sizes_are_written(amount, decimal, binary):
    assert size(amount) == decimal
    assert size(amount, binary=True) == binary


@given(st.integers(0, 10**15), st.booleans())
def test_what_is_written_is_read_back_within_its_last_digit(amount, binary):
    written = size(amount, binary=binary)
    if amount:
        assert parse_size(written.replace(",", "")) == pytest.approx(amount, rel=0.051)


@pytest.mark.parametrize(
    ("text", "binary"), [("24GiB", True), ("24 gib", True), ("24GB", False), (24, False), (None, False)]
)
def test_answers_are_in_the_units_of_the_question(text, binary):
    assert is_binary(text) is binary

"""Read bytes and counts with units: GB is 10⁹ bytes, GiB is 2³⁰."""

from __future__ import annotations

import re
from decimal import Decimal

from gradstep.storage.sizes import parse_bytes

GB = 10**9
GIB = 2**30

COUNTS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}

_COUNT = re.compile(r"\s*([0-9][0-9_,]*(?:\.[0-9]+)?(?:[eE][+]?[0-9]+)?)\s*([A-Za-z]*)\s*")


def parse_size(text: str | int) -> int:
    """Return a number of bytes above 0 from "24GB", "24 GiB", "512 MB" or a whole number.

    Raises:
        ValueError: no such unit, or a size of 0.
        TypeError: neither text nor a whole number.

    >>> parse_size("24GB"), parse_size("24 GiB")
    (24000000000, 25769803776)
    """
    amount = parse_bytes(text)
    if amount == 0:
        raise ValueError(f"Invalid size: {text!r} (must be above 0)")
    return amount


def parse_count(text: str | float) -> int:
    """Return a number of parameters from "3B", "1.5b", "124M", 3e9 or 3_000_000_000; B is 10⁹.

    Raises:
        ValueError: not a whole number above 0, or no such suffix.

    >>> parse_count("1.5B"), parse_count(3e9)
    (1500000000, 3000000000)
    """
    if not isinstance(text, str):
        return _check_whole(Decimal(str(text)), text)
    match = _COUNT.fullmatch(text)
    if match is None or match[2].upper() not in COUNTS:
        raise ValueError(
            f"Invalid count: {text!r} (write 3B, 124M or 3000000000; K, M, B and T stand for 10³, 10⁶, 10⁹ and 10¹²)"
        )
    return _check_whole(Decimal(re.sub("[_,]", "", match[1])) * COUNTS[match[2].upper()], text)


def is_binary(text: str | int | None) -> bool:
    """Return whether a size was written in KiB, MiB or GiB, so that results are printed in these units too."""
    return isinstance(text, str) and text.strip().lower().endswith("ib")


def _check_whole(amount: Decimal, given: str | float) -> int:
    if not amount.is_finite() or amount <= 0 or amount != amount.to_integral_value():
        raise ValueError(f"Invalid count: {given!r} (must be a whole number above 0)")
    return int(amount)

"""Words that several rules of the doctor share."""

from __future__ import annotations

from collections.abc import Iterable

SHOWN = 4


def listed(names: Iterable[str]) -> str:
    """Names in a row, the first few of many.

    >>> listed(["a", "b"]), listed("abcdefg")
    ('a, b', 'a, b, c, d and 3 more')
    """
    known = list(names)
    more = len(known) - SHOWN
    return ", ".join(known[:SHOWN]) + (f" and {more} more" if more > 0 else "")

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


def fell(share: float) -> str:
    """How a loss went, given the share of itself that it lost.

    >>> fell(0.1234), fell(-0.5)
    ('fell by 12.3%', 'rose by 50.0%')
    """
    return f"{'fell' if share >= 0 else 'rose'} by {abs(share):.1%}"

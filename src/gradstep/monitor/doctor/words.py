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


def part(share: float) -> str:
    """A share of a whole: in percent as long as that can be read, then as a multiple.

    >>> part(0.5), part(1.234), part(14904238.5), part(1.49e13)
    ('50%', '123%', '14,904,238 times', '1.5e+13 times')
    """
    if abs(share) < 10:
        return f"{share:.0%}"
    return f"{share:,.0f} times" if abs(share) < 1e9 else f"{share:.2g} times"


def fell(share: float) -> str:
    """How a loss went, given the share of itself that it lost.

    >>> fell(0.1234), fell(-0.5), fell(-1999.0)
    ('fell by 12.3%', 'rose by 50.0%', 'rose to 2,000 times its start')
    """
    if share <= -10:
        return f"rose to {part(1 - share)} its start"
    return f"{'fell' if share >= 0 else 'rose'} by {abs(share):.1%}"

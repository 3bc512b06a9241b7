"""Suggestions for a misspelled name, which errors make."""

from __future__ import annotations

from collections.abc import Collection
from difflib import SequenceMatcher


def suggest(given: str, allowed: Collection[str], most: int = 2, *, similarity: float = 0.6) -> str:
    """Return the end of an error message that names the nearest allowed names; empty if none is similar.

    Upper and lower case are alike. Of equally similar names, those that begin alike go first.

    Args:
        given: the name that is not allowed.
        allowed: the allowed names.
        most: how many of them to name at most.
        similarity: the least similarity of a name to the given one, from 0 to 1.

    >>> suggest("adamv", ["radam", "sgd", "adam", "adamw"])
    " Did you mean 'adam' or 'adamw'?"
    """
    typed = given.lower()

    def rate(name: str) -> tuple[float, int]:
        matches = [a == b for a, b in zip(name.lower(), typed, strict=False)]
        return SequenceMatcher(a=name.lower(), b=typed).ratio(), [*matches, False].index(False)

    near = [repr(name) for name in sorted(allowed, key=rate, reverse=True)[:most] if rate(name)[0] >= similarity]
    names = " or ".join([", ".join(near[:-1]), near[-1]] if near[1:] else near)
    return f" Did you mean {names}?" if near else ""

"""Suggestions for a misspelled name, which errors make."""

from __future__ import annotations

from collections.abc import Collection
from difflib import get_close_matches


def suggest(given: str, allowed: Collection[str], most: int = 2, *, similarity: float = 0.6) -> str:
    """Return the end of an error message that names the nearest allowed names; empty if none is similar.

    Args:
        given: the name that is not allowed.
        allowed: the allowed names.
        most: how many of them to name at most.
        similarity: the least similarity of a name to the given one, from 0 to 1.

    >>> suggest("adamv", ["sgd", "adam", "adamw"])
    " Did you mean 'adam' or 'adamw'?"
    """
    near = [repr(name) for name in get_close_matches(given, allowed, n=most, cutoff=similarity)]
    names = " or ".join([", ".join(near[:-1]), near[-1]] if near[1:] else near)
    return f" Did you mean {names}?" if near else ""

"""A long line with fewer points, in which no spike is lost."""

from __future__ import annotations

import math
from collections.abc import Sequence


def thinned(values: Sequence[float | None], most: int) -> list[int]:
    """Which points to keep: of every stretch the lowest and the highest, and of each the first that is not finite.

    Args:
        values: the line; None where there is no value.
        most: how many points about, ≥ 4.

    Returns:
        Positions, ascending; all if there are no more than ``most``.

    >>> thinned([0, 1, 9, 1, 0, 1, 2, 1], most=4)
    [0, 2, 4, 6]
    """
    if len(values) <= most:
        return list(range(len(values)))
    stretches = most // 2
    kept: set[int] = {0, len(values) - 1} if most > 4 else set()
    for k in range(stretches):
        stretch = range(k * len(values) // stretches, (k + 1) * len(values) // stretches)
        known = [(value, i) for i in stretch if (value := values[i]) is not None]
        finite = [(value, i) for value, i in known if math.isfinite(value)]
        kept.update(i for _, i in [min(finite), max(finite)] if finite) if finite else None
        kept.update(i for value, i in known[:1] if not finite)
        kept.update([next(i for value, i in known if not math.isfinite(value))] if len(finite) < len(known) else [])
    return sorted(kept)

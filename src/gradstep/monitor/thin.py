"""A long line with fewer points, in which no spike is lost."""

from __future__ import annotations

import math
from collections.abc import Sequence


def thinned(values: Sequence[float | None], most: int) -> list[int]:
    """Which points to keep: the ends, and of every stretch the lowest, the highest and the first that is not finite.

    Args:
        values: the line; None where there is no value.
        most: how many points about, ≥ 2.

    Returns:
        Positions, ascending; all if there are no more than ``most``.

    >>> thinned([0, 1, 9, 1, 0, 1, 2, 1], most=4)
    [0, 2, 4, 6, 7]
    """
    count = len(values)
    if count <= most:
        return list(range(count))
    known = [math.nan if value is None else value for value in values]
    kept = {0, count - 1}
    for k in range(most // 2):
        stretch = range(k * count // (most // 2), (k + 1) * count // (most // 2))
        finite = [i for i in stretch if math.isfinite(known[i])]
        if finite:
            kept |= {min(finite, key=known.__getitem__), max(finite, key=known.__getitem__)}
        kept.update([i for i in stretch if values[i] is not None and not math.isfinite(known[i])][:1])
    return sorted(kept)

"""Memory for what a watched kernel finds."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gradstep.engines.fused.job import address_of

ROW = 8
"""Numbers in a row: a line of the cache, for the rows before and after are written by other threads."""


def results_of(rows: int) -> NDArray[np.float64]:
    """(rows, ROW), each row in a line of its own; not filled."""
    room = np.empty((rows + 1) * ROW)
    first = -address_of(room) // room.itemsize % ROW
    return room[first : first + rows * ROW].reshape(-1, ROW)

"""What a step can tell of itself: sums over each parameter or group, collected in the pass that updates it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

STATISTICS = ("grad_square", "param_square", "update_square", "unmoved", "second_min", "second_max")
"""The columns that an engine collects, for each owner of parameters:

- the sum of squares of the gradient as the rule saw it (unscaled and clipped), of the parameters after the step, and
  of the difference that the step made to what is stored;
- how many elements with a gradient that is not 0 are stored as before;
- the smallest and the largest value of the first slot that is never negative; NaN if there is none.

Each sum is exact to 2e-6 of itself (a norm, its root, to 1e-6), whatever the size of the numbers: one that is not
finite is that of numbers that are not, and 0 is that of zeros; only the squares of float64 numbers can leave the range
of float64.
"""

SUMS = 4
"""How many of them are sums; the others are a minimum and a maximum."""


NOTHING = (0.0,) * SUMS + (math.nan,) * (len(STATISTICS) - SUMS)
"""The row of one of whom nothing was updated."""


def nothing(rows: int) -> NDArray[np.float64]:
    """(rows, len(STATISTICS)) for so many owners, before anything was counted."""
    return np.tile(NOTHING, (rows, 1))


def count(table: NDArray[np.float64], owners: NDArray[np.int64], found: NDArray[np.float64]) -> None:
    """Count each row that was found for its owner, in the table."""
    with np.errstate(over="ignore"):
        np.add.at(table[:, :SUMS], owners, found[:, :SUMS])
    np.fmin.at(table[:, SUMS], owners, found[:, SUMS])
    np.fmax.at(table[:, SUMS + 1], owners, found[:, SUMS + 1])


def rows_of(owners: NDArray[np.int64]) -> int:
    """How many rows there are for these owners, which are numbered from 0 on and ascending."""
    return int(owners[-1]) + 1 if len(owners) else 0


@final
@dataclass(frozen=True, eq=False)
class Tally:
    """The statistics of an update as an engine leaves them.

    Attributes:
        table: (owners, len(STATISTICS)).
        finite: whether all gradients are.
    """

    table: NDArray[np.float64]
    finite: bool

    @staticmethod
    def of(table: NDArray[np.float64]) -> Tally:
        """Of such a table."""
        return Tally(table, bool(np.isfinite(table[:, 0]).all()))

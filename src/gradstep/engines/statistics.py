"""What a step can tell of itself: sums over each parameter, collected in the pass that updates it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

STATISTICS = ("grad_square", "param_square", "update_square", "unmoved", "second_min", "second_max")
"""The columns that an engine collects, for each parameter:

- the sum of squares of the gradient as the rule saw it (unscaled and clipped), of the parameter after the step, and
  of the difference that the step made to what is stored;
- how many elements with a gradient that is not 0 are stored as before;
- the smallest and the largest value of the first slot that is never negative; NaN if there is none.

Each sum is exact to 2e-6 of itself (a norm, its root, to 1e-6), whatever the size of the numbers: one that is not
finite is that of numbers that are not, and 0 is that of zeros; only the squares of float64 numbers can leave the range
of float64.
"""

SUMS = 4
"""How many of them are sums; the others are a minimum and a maximum."""


@final
@dataclass(frozen=True, eq=False)
class Tally:
    """The statistics as an engine leaves them, in pieces of parameters: to be added up when somebody asks.

    Right after a step all that code and data would have to come from memory; asked about many steps at once, it is
    three times as fast.

    Attributes:
        pieces: (pieces, len(STATISTICS)), those of a parameter one after the other.
        owners: (pieces,) which parameter each is of.
        first: of every parameter that has pieces, which is the first.
        count: how many parameters there are.
        finite: whether all gradients are.
    """

    pieces: NDArray[np.float64]
    owners: NDArray[np.int64]
    first: NDArray[np.int64]
    count: int
    finite: bool

    @staticmethod
    def of(table: NDArray[np.float64]) -> Tally:
        """Of one piece for each parameter, in a table like :meth:`table`."""
        each = np.arange(len(table))
        return Tally(table, each, each, len(table), bool(np.isfinite(table[:, 0]).all()))

    def table(self) -> NDArray[np.float64]:
        """(count, len(STATISTICS)), a row for each parameter; without pieces, sums are 0 and bounds NaN."""
        found, first = self.pieces, self.first
        if len(first) < len(found):
            least, most = (fold.reduceat(found[:, SUMS + k], first) for k, fold in enumerate((np.minimum, np.maximum)))
            found = np.column_stack((np.add.reduceat(found[:, :SUMS], first), least, most))
        if len(first) < self.count:
            some, found = found, np.zeros((self.count, len(STATISTICS)))
            found[:, SUMS:] = np.nan
            found[self.owners[first]] = some
        return found

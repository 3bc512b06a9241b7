"""What one step did to every parameter, gathered from the engines when somebody asks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any, NamedTuple, final

import numpy as np
from numpy.typing import NDArray

from gradstep.engines.base import Int64s
from gradstep.engines.statistics import STATISTICS, Tally
from gradstep.optimizers.batch import TorchBatch, Who

Float64s = NDArray[np.float64]


class Share(NamedTuple):
    """What one batch did.

    Attributes:
        who: its parameters.
        tally: what its engine collected.
    """

    who: Who
    tally: Tally


@final
@dataclass(frozen=True, eq=False)
class Statistics:
    """The parameters that one step updated, in the order of ``param_groups``; every array has one entry for each.

    Args:
        shares: of the batches of the step.
        clip: what clipping multiplied the gradients by.
    """

    shares: Sequence[Share]
    clip: float

    @staticmethod
    def of(batches: Sequence[TorchBatch], clip: float) -> Statistics:
        """Of watched batches after their update."""
        return Statistics([Share(batch.who, batch.tally) for batch in batches] or [_NOTHING], clip)

    @property
    def finite(self) -> bool:
        """Whether all gradients are."""
        return all(share.tally.finite for share in self.shares)

    @cached_property
    def names(self) -> Sequence[str]:
        """What they are called."""
        names = list(chain.from_iterable([share.who.names for share in self.shares]))
        return names if self._order is None else [names[i] for i in self._order.tolist()]

    @cached_property
    def index(self) -> Int64s:
        """Which one each is, counted over all groups."""
        return self._of_all(lambda share: share.who.members)

    @cached_property
    def groups(self) -> Int64s:
        """The number of each one's group."""
        return self._of_all(lambda share: share.who.groups)

    @cached_property
    def elements(self) -> Int64s:
        """How many it has."""
        return self._of_all(lambda share: share.who.elements)

    @cached_property
    def table(self) -> Float64s:
        """(n, 6) all that follows, a column for each."""
        table = self._of_all(lambda share: share.tally.table)
        if self.clip != 1:
            table = table.copy()
            table[:, 0] /= self.clip**2
        return table

    @property
    def grad_square(self) -> Float64s:
        """Sum of squares of its gradient, unscaled and before clipping."""
        return self.table[:, 0]

    @property
    def param_square(self) -> Float64s:
        """Of the parameter after the step."""
        return self.table[:, 1]

    @property
    def update_square(self) -> Float64s:
        """Of what the step changed in it, as stored."""
        return self.table[:, 2]

    @property
    def unmoved(self) -> Float64s:
        """How many elements with a gradient that is not 0 are stored as before: rounding lost their update."""
        return self.table[:, 3]

    @property
    def second_min(self) -> Float64s:
        """Smallest value of the first slot that is never negative (Adam's second moment); NaN if there is none."""
        return self.table[:, 4]

    @property
    def second_max(self) -> Float64s:
        """Its largest value."""
        return self.table[:, 5]

    @cached_property
    def _order(self) -> Int64s | None:
        """Each share is in the right order, but they do not come one after the other; None if there is only one."""
        if len(self.shares) == 1:
            return None
        return np.argsort(np.concatenate([share.who.members for share in self.shares]))

    def _of_all(self, column: Callable[[Share], NDArray[Any]]) -> NDArray[Any]:
        if self._order is None:
            return column(self.shares[0])
        return np.concatenate([column(share) for share in self.shares])[self._order]


_NONE = np.empty(0, np.int64)
_NOTHING = Share(Who([], _NONE, _NONE, _NONE), Tally.of(np.empty((0, len(STATISTICS)))))

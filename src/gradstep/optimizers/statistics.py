"""What one step did to every parameter or group, gathered from the engines when somebody asks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import NamedTuple, final

import numpy as np
from numpy.typing import NDArray

from gradstep.engines.base import Int64s
from gradstep.engines.statistics import Tally, count, nothing
from gradstep.optimizers.batch import TorchBatch
from gradstep.optimizers.who import Detail, Who

Float64s = NDArray[np.float64]


class Share(NamedTuple):
    """What one batch did.

    Attributes:
        who: whose rows there are.
        tally: what its engine collected.
    """

    who: Who
    tally: Tally


@final
@dataclass(frozen=True, eq=False)
class Statistics:
    """What one step updated, in the order of ``param_groups``; every array has one entry for each parameter or group.

    Args:
        shares: of the batches of the step.
        detail: what has an entry of its own, ``"parameters"`` or ``"groups"``; a group is what of it was updated.
        clip: what clipping multiplied the gradients by.
    """

    shares: Sequence[Share]
    detail: Detail
    clip: float

    @staticmethod
    def of(batches: Sequence[TorchBatch], detail: Detail, clip: float) -> Statistics:
        """Of watched batches after their update."""
        return Statistics([Share(batch.who, batch.tally) for batch in batches] or [_NOTHING], detail, clip)

    @property
    def finite(self) -> bool:
        """Whether all gradients are."""
        return all(share.tally.finite for share in self.shares)

    @cached_property
    def names(self) -> Sequence[str]:
        """What they are called."""
        names = list(chain.from_iterable([share.who.names for share in self.shares]))
        return names if self._order is None else [names[i] for i in self._order.first.tolist()]

    @cached_property
    def index(self) -> Int64s:
        """Which one each is; parameters are counted over all groups."""
        return self.shares[0].who.index if self._order is None else self._order.every

    @cached_property
    def groups(self) -> Int64s:
        """The number of each one's group."""
        if self._order is None:
            return self.shares[0].who.groups
        return np.concatenate([share.who.groups for share in self.shares])[self._order.first]

    @cached_property
    def elements(self) -> Int64s:
        """How many it has."""
        if self._order is None:
            return self.shares[0].who.elements
        elements = np.zeros_like(self.index)
        np.add.at(elements, self._order.place, np.concatenate([share.who.elements for share in self.shares]))
        return elements

    @cached_property
    def table(self) -> Float64s:
        """(n, 6) all that follows, a column for each."""
        if self._order is None:
            table = self.shares[0].tally.table
        else:
            table = nothing(len(self.index))
            count(table, self._order.place, np.concatenate([share.tally.table for share in self.shares]))
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
    def _order(self) -> _Order | None:
        """Of several shares; a group may have a part in each."""
        if len(self.shares) == 1:
            return None
        every = np.concatenate([share.who.index for share in self.shares])
        return _Order(*np.unique(every, return_index=True, return_inverse=True))


class _Order(NamedTuple):
    """The entries of all shares, one after the other, in their right order.

    Attributes:
        every: (n,) the number of each parameter or group, ascending.
        first: (n,) where its first entry stands.
        place: for every entry, whose it is.
    """

    every: Int64s
    first: Int64s
    place: Int64s


_NONE = np.empty(0, np.int64)
_NOTHING = Share(Who.of("parameters", [], _NONE, _NONE, _NONE), Tally.of(nothing(0)))

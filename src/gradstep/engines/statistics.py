"""Statistics of a step: sums over each parameter or group, collected in the pass that updates it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Literal, NamedTuple, final, get_args

import numpy as np
from numpy.typing import NDArray

Float64s = NDArray[np.float64]
Int64s = NDArray[np.int64]

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

EMPTY_ROW = (0.0,) * SUMS + (math.nan,) * (len(STATISTICS) - SUMS)
"""The row of a parameter or group of which nothing was updated."""


def empty_table(rows: int) -> Float64s:
    """(rows, len(STATISTICS)) before anything is counted."""
    return np.tile(EMPTY_ROW, (rows, 1))


def add_rows(table: Float64s, owners: Int64s, found: Float64s) -> None:
    """Add each row of ``found`` to the row of its owner in ``table``; of the last two columns keep the extremes.

    Args:
        table: (rows, len(STATISTICS)) changed in place.
        owners: (n,) the row of ``table`` that each row of ``found`` counts for.
        found: (n, len(STATISTICS)).
    """
    with np.errstate(over="ignore"):
        np.add.at(table[:, :SUMS], owners, found[:, :SUMS])
    np.fmin.at(table[:, SUMS], owners, found[:, SUMS])
    np.fmax.at(table[:, SUMS + 1], owners, found[:, SUMS + 1])


def count_rows(owners: Int64s) -> int:
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

    table: Float64s
    finite: bool

    @staticmethod
    def of(table: Float64s) -> Tally:
        """Of such a table."""
        return Tally(table, bool(np.isfinite(table[:, 0]).all()))


Detail = Literal["parameters", "groups"]
"""What has a row of statistics of its own: every parameter, or every group."""

DETAILS: tuple[Detail, ...] = get_args(Detail)

_FINENESS = {None: 0, "groups": 1, "parameters": 2}


def finest_detail(wanted: Sequence[Detail | None]) -> Detail | None:
    """The coarsest detail that satisfies all who want statistics; None if nobody wants any.

    Raises:
        ValueError: something else is wanted.

    >>> finest_detail(["groups", None, "parameters"])
    'parameters'
    """
    try:
        return max(wanted, key=_FINENESS.__getitem__)
    except (KeyError, TypeError) as error:
        given = next(detail for detail in wanted if detail not in (None, *DETAILS))
        raise ValueError(
            f"statistics can be had of {' or of '.join(map(repr, DETAILS))}, or None, but not of {given!r}"
        ) from error


@final
@dataclass(frozen=True, eq=False)
class RowLabels:
    """Labels of the rows of statistics: parameters or groups. It holds neither a parameter nor a gradient.

    Attributes:
        names: of the parameters or groups.
        index: (n,) the number of each among all of the optimizer, ascending.
        groups: (n,) the number of the group of each.
        elements: (n,) how many elements each has.
        owners: (parameters,) the row that each parameter counts for.
        key: the owners as bytes, by which they can be looked up.
    """

    names: Sequence[str]
    index: Int64s
    groups: Int64s
    elements: Int64s
    owners: Int64s
    key: bytes

    @staticmethod
    def of(detail: Detail, names: Sequence[str], members: Int64s, groups: Int64s, elements: Int64s) -> RowLabels:
        """Labels for these parameters, or for their groups.

        Args:
            detail: which of the two.
            names: of the parameters.
            members, groups, elements: (parameters,) their numbers, their groups' numbers, and their elements.
        """
        if detail == "parameters":
            every = np.arange(len(members))
            return RowLabels(names, members, groups, elements, every, every.tobytes())
        present, first, owners = np.unique(groups, return_index=True, return_inverse=True)
        sums = np.add.reduceat(elements, first) if len(first) else elements
        return RowLabels(
            [f"group {group}" for group in present.tolist()], present, present, sums, owners, owners.tobytes()
        )


class BatchStatistics(NamedTuple):
    """The statistics of one batch: the labels of its rows, and the numbers that its engine collected."""

    labels: RowLabels
    tally: Tally


@final
@dataclass(frozen=True, eq=False)
class Statistics:
    """What one step updated, in the order of ``param_groups``; every array has one entry for each parameter or group.

    Args:
        batches: one of each batch of the step, at least one.
        detail: what has an entry of its own, ``"parameters"`` or ``"groups"``; a group is what of it was updated.
        clip: what clipping multiplied the gradients by.
    """

    batches: Sequence[BatchStatistics]
    detail: Detail
    clip: float

    @property
    def finite(self) -> bool:
        """Whether all gradients are."""
        return all(batch.tally.finite for batch in self.batches)

    @cached_property
    def names(self) -> Sequence[str]:
        """What they are called."""
        names = list(chain.from_iterable([batch.labels.names for batch in self.batches]))
        return names if self._order is None else [names[i] for i in self._order.first.tolist()]

    @cached_property
    def index(self) -> Int64s:
        """Which one each is; parameters are counted over all groups."""
        return self.batches[0].labels.index if self._order is None else self._order.every

    @cached_property
    def groups(self) -> Int64s:
        """The number of each one's group."""
        if self._order is None:
            return self.batches[0].labels.groups
        return np.concatenate([batch.labels.groups for batch in self.batches])[self._order.first]

    @cached_property
    def elements(self) -> Int64s:
        """How many it has."""
        if self._order is None:
            return self.batches[0].labels.elements
        elements = np.zeros_like(self.index)
        np.add.at(elements, self._order.place, np.concatenate([batch.labels.elements for batch in self.batches]))
        return elements

    @cached_property
    def table(self) -> Float64s:
        """(n, 6) all that follows, a column for each."""
        if self._order is None:
            table = self.batches[0].tally.table
        else:
            table = empty_table(len(self.index))
            add_rows(table, self._order.place, np.concatenate([batch.tally.table for batch in self.batches]))
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
        """Of several batches; a group may have a part in each."""
        if len(self.batches) == 1:
            return None
        every = np.concatenate([batch.labels.index for batch in self.batches])
        return _Order(*np.unique(every, return_index=True, return_inverse=True))


class _Order(NamedTuple):
    """The entries of all batches, one after the other, in their right order.

    Attributes:
        every: (n,) the number of each parameter or group, ascending.
        first: (n,) where its first entry stands.
        place: for every entry, whose it is.
    """

    every: Int64s
    first: Int64s
    place: Int64s


_NONE = np.empty(0, np.int64)

NO_STATISTICS = BatchStatistics(RowLabels.of("parameters", [], _NONE, _NONE, _NONE), Tally.of(empty_table(0)))
"""Of a step that updated nothing."""

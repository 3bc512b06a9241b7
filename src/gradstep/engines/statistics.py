"""The report of a step, and its statistics: sums over each parameter or group, collected in the pass that updates."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Literal, NamedTuple, final, get_args

import numpy as np
from numpy.typing import NDArray

from gradstep.rules import Rule

Float64s = NDArray[np.float64]
Int64s = NDArray[np.int64]

STATISTICS = ("grad_square", "param_square", "update_square", "unmoved", "second_min", "second_max")
"""The columns that an engine collects, for each owner of parameters:

- the sum of squares of the gradient as the rule receives it (unscaled and clipped), of the parameters after the step,
  and of the change of the stored parameters;
- how many elements have a gradient that is not 0 and are stored unchanged;
- the smallest and the largest value of the first slot that is never negative; NaN without such a slot.

Each sum has a relative error below 2e-6 (a norm, its root, below 1e-6), whatever the size of the numbers. A sum is
infinite or NaN only if a number is, and 0 only if all numbers are; only the squares of float64 numbers can leave the
range of float64.
"""

SUMS = 4
"""The first columns, which are sums; the last two are a minimum and a maximum."""

EMPTY_ROW = (0.0,) * SUMS + (math.nan,) * (len(STATISTICS) - SUMS)
"""The row of a parameter or group of which nothing was updated."""


def empty_table(rows: int) -> Float64s:
    """Return (rows, len(STATISTICS)) empty rows."""
    return np.tile(EMPTY_ROW, (rows, 1))


def add_rows(table: Float64s, owners: Int64s, rows: Float64s) -> None:
    """Add each row to the row of its owner in ``table``; the last two columns take the minimum and the maximum.

    Args:
        table: (owners, len(STATISTICS)) changed in place.
        owners: (n,) the row of ``table`` that each row counts for.
        rows: (n, len(STATISTICS)).
    """
    with np.errstate(over="ignore"):
        np.add.at(table[:, :SUMS], owners, rows[:, :SUMS])
    np.fmin.at(table[:, SUMS], owners, rows[:, SUMS])
    np.fmax.at(table[:, SUMS + 1], owners, rows[:, SUMS + 1])


def count_rows(owners: Int64s) -> int:
    """Return the number of distinct owners; they are ascending numbers from 0 on."""
    return int(owners[-1]) + 1 if len(owners) else 0


@final
@dataclass(frozen=True, eq=False)
class Tally:
    """The statistics of an update that an engine collected.

    Attributes:
        table: (owners, len(STATISTICS)).
        finite: whether all gradients are finite.
    """

    table: Float64s
    finite: bool

    @staticmethod
    def of(table: Float64s) -> Tally:
        """Return the tally of a table; ``finite`` follows from its sums of squared gradients."""
        return Tally(table, bool(np.isfinite(table[:, 0]).all()))


Detail = Literal["parameters", "groups"]
"""What has a row of statistics of its own: every parameter, or every group."""

DETAILS: tuple[Detail, ...] = get_args(Detail)

_FINENESS = {None: 0, "groups": 1, "parameters": 2}


def finest_detail(details: Sequence[Detail | None]) -> Detail | None:
    """Return the finest of the requested details, which serves all requests; None if all are None.

    Raises:
        ValueError: a request is not a detail.

    >>> finest_detail(["groups", None, "parameters"])
    'parameters'
    """
    try:
        return max(details, key=_FINENESS.__getitem__)
    except (KeyError, TypeError) as error:
        wrong = next(detail for detail in details if detail not in (None, *DETAILS))
        raise ValueError(
            f"statistics can be had of {' or of '.join(map(repr, DETAILS))}, or None, but not of {wrong!r}"
        ) from error


@final
@dataclass(frozen=True, eq=False)
class RowLabels:
    """Labels of the rows of statistics: parameters or groups. They hold no reference to a parameter or gradient.

    Attributes:
        names: of the parameters or groups.
        index: (n,) the number of each among all of the optimizer, ascending.
        groups: (n,) the number of the group of each.
        elements: (n,) the number of elements of each.
        owners: (parameters,) the row that each parameter counts for.
        key: the owners as bytes, a key for caches.
    """

    names: Sequence[str]
    index: Int64s
    groups: Int64s
    elements: Int64s
    owners: Int64s
    key: bytes

    @staticmethod
    def of(detail: Detail, names: Sequence[str], members: Int64s, groups: Int64s, elements: Int64s) -> RowLabels:
        """Return labels of these parameters, or of their groups.

        Args:
            detail: whether parameters or groups.
            names: of the parameters.
            members, groups, elements: (parameters,) their numbers, their groups' numbers, their numbers of elements.
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
    """Statistics of all that one step updated: arrays with one entry per parameter or group, as in ``param_groups``.

    Args:
        batches: the statistics of each batch of the step, at least one.
        detail: whether each of the ``"parameters"`` or each of the ``"groups"`` has an entry; the entry of a group
            counts only the parameters that were updated.
        clip: the factor that clipping multiplied the gradients by.
    """

    batches: Sequence[BatchStatistics]
    detail: Detail
    clip: float

    @property
    def finite(self) -> bool:
        """Whether all gradients are finite."""
        return all(batch.tally.finite for batch in self.batches)

    @cached_property
    def names(self) -> Sequence[str]:
        """The names of the parameters or groups."""
        names = list(chain.from_iterable([batch.labels.names for batch in self.batches]))
        return names if self._order is None else [names[i] for i in self._order.first.tolist()]

    @cached_property
    def index(self) -> Int64s:
        """(n,) the number of each parameter or group; parameters are counted over all groups."""
        return self.batches[0].labels.index if self._order is None else self._order.every

    @cached_property
    def groups(self) -> Int64s:
        """(n,) the number of each entry's group."""
        if self._order is None:
            return self.batches[0].labels.groups
        return np.concatenate([batch.labels.groups for batch in self.batches])[self._order.first]

    @cached_property
    def elements(self) -> Int64s:
        """(n,) the number of elements of each entry."""
        if self._order is None:
            return self.batches[0].labels.elements
        elements = np.zeros_like(self.index)
        np.add.at(elements, self._order.place, np.concatenate([batch.labels.elements for batch in self.batches]))
        return elements

    @cached_property
    def table(self) -> Float64s:
        """(n, 6) the columns :data:`STATISTICS`, each of which is also a property."""
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
        """(n,) sum of squares of the gradient, unscaled and before clipping."""
        return self.table[:, 0]

    @property
    def param_square(self) -> Float64s:
        """(n,) sum of squares of the parameter after the step."""
        return self.table[:, 1]

    @property
    def update_square(self) -> Float64s:
        """(n,) sum of squares of the change of the stored parameter."""
        return self.table[:, 2]

    @property
    def unmoved(self) -> Float64s:
        """(n,) how many elements have a gradient that is not 0 and are stored unchanged: rounding lost their update."""
        return self.table[:, 3]

    @property
    def second_min(self) -> Float64s:
        """(n,) smallest value of the first slot that is never negative (Adam's second moment); NaN without one."""
        return self.table[:, 4]

    @property
    def second_max(self) -> Float64s:
        """(n,) largest value of the first slot that is never negative; NaN without one."""
        return self.table[:, 5]

    @cached_property
    def _order(self) -> _Order | None:
        """The merge of several batches, in each of which a group may have a part; None for one batch."""
        if len(self.batches) == 1:
            return None
        every = np.concatenate([batch.labels.index for batch in self.batches])
        return _Order(*np.unique(every, return_index=True, return_inverse=True))


class _Order(NamedTuple):
    """How the concatenated entries of all batches are merged and sorted.

    Attributes:
        every: (n,) the number of each parameter or group, ascending.
        first: (n,) the position of its first entry.
        place: (entries,) for every entry, the position of its parameter or group in ``every``.
    """

    every: Int64s
    first: Int64s
    place: Int64s


_NONE = np.empty(0, np.int64)

NO_STATISTICS = BatchStatistics(RowLabels.of("parameters", [], _NONE, _NONE, _NONE), Tally.of(empty_table(0)))
"""The statistics of a step that updated nothing."""


# -- reports ----------------------------------------------------------------------------------------------------------


@final
@dataclass(frozen=True)
class StepReport:
    """The report of one ``step()`` of one optimizer: :attr:`Optimizer.last_step`.

    A :class:`gradstep.Stepper` makes one update out of several micro-batches and the steps of all its optimizers; its
    :class:`gradstep.UpdateOutcome` has ``stepped``, ``grad_norm``, ``clip`` and ``reason`` with the same meaning.

    Attributes:
        stepped: False if the step was skipped and nothing was changed.
        grad_norm: the global 2-norm of the unscaled gradients before clipping, if the step clipped or unscaled; else
            None.
        clip: the factor that clipping multiplied the gradients by; 1 if no clipping was needed.
        reason: why the step was skipped, else empty.
        statistics: of all updated parameters, if :attr:`Optimizer.watch` or an observer requested them.
        rules: one per group, with the settings that the step used; empty if it was skipped.

    >>> report = StepReport(stepped=True, grad_norm=10.0, clip=0.5)
    >>> report.stepped, report.grad_norm * report.clip  # the norm after clipping
    (True, 5.0)
    """

    stepped: bool
    grad_norm: float | None = None
    clip: float = 1.0
    reason: str = ""
    statistics: Statistics | None = None
    rules: Sequence[Rule] = ()


class Observer(ABC):
    """An object that is called before and after every step, inside torch's hooks.

    Hooks may change a step and cost more.
    """

    @abstractmethod
    def before(self, *, closure: bool) -> Detail | None:
        """Called when a step begins; gradients are present, unless ``closure`` says that a closure computes them.

        Returns:
            The statistics that the step must collect, as in :attr:`Optimizer.watch`.
        """

    @abstractmethod
    def after(self, report: StepReport) -> None:
        """Called when a step has ended without an exception."""

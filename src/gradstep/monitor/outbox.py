"""Updates until their records are made and written, together about once a second."""

from __future__ import annotations

import atexit
import math
import os
import sys
import time
import warnings
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from itertools import repeat
from time import monotonic
from typing import Any, final
from weakref import WeakSet

import numpy as np
from numpy.typing import NDArray
from torch.optim import Optimizer

from gradstep.engines.statistics import SUMS
from gradstep.monitor.record import Header, Numbers, PerParameter, Update
from gradstep.monitor.sinks import Sink
from gradstep.monitor.statistics import CollectedStep, StatisticsTable
from gradstep.monitor.watched import Outcome
from gradstep.rules import Rule

INTERVAL = 1.0
"""Seconds between two writes while updates are made."""

MOST = 64
"""Most records in the queue: with 10,000 tensors a record has half a megabyte."""


@final
class Outbox:
    """Queues the records of a monitor, and writes them to its sinks together.

    A step evicts Python's data from the processor's caches. A record that is made right after it takes most of a
    millisecond; records made by the dozen take a tenth of that each. Therefore they wait for about a second, unless one
    is alarming. There is no thread for this: it would compete with the training for the processors and for Python's
    lock.

    At the end of the process the waiting records are written, even without :meth:`close`.

    Args:
        sinks: the destinations of records.
        single: whether to record the numbers of single parameters.
    """

    current: Pending | None = None
    """The last update, as long as :meth:`gradstep.Monitor.log` may add to it."""

    def __init__(self, sinks: Sequence[Sink], *, single: bool) -> None:
        self._sinks = list(sinks)
        self._single = single
        self._waiting: deque[Pending | Update] = deque()
        self._group_rows = GroupRows()
        self._last_write = monotonic()
        _OUTBOXES.add(self)

    def open(self, header: Header) -> None:
        """Write the waiting records, then give the sinks a new header."""
        self.flush()
        for sink in self._sinks:
            sink.open(header)
        atexit.unregister(self.finish)
        atexit.register(self.finish)  # registered after the sinks' functions, so it is called before them

    def put_current(self) -> None:
        """Queue the last update; nothing more can be added to it."""
        if self.current is not None:
            update, self.current = self.current, None
            self.put(update, at_once=update.alarming)

    def put(self, entry: Pending | Update, *, at_once: bool = False) -> None:
        """Queue an entry; entries are written in this order."""
        self._waiting.append(entry)
        if at_once or len(self._waiting) >= MOST or monotonic() - self._last_write >= INTERVAL:
            self.flush()

    def flush(self) -> None:
        """Write every queued record."""
        if not self._waiting:
            return
        while self._waiting:
            entry = self._waiting.popleft()
            update = entry if isinstance(entry, Update) else entry.make_record(self._group_rows, single=self._single)
            for sink in list(self._sinks):
                self._call(sink, partial(sink.write, update))
        for sink in list(self._sinks):
            self._call(sink, sink.flush)
        self._last_write = monotonic()

    def _call(self, sink: Sink, method: Callable[[], None]) -> None:
        try:
            method()
        except OSError as error:  # a full disk ends the record, not the training
            self._sinks.remove(sink)
            warnings.warn(f"{type(sink).__name__} gets no more records: {error}", stacklevel=2)

    def finish(self) -> None:
        """Write every record, including that of the last update."""
        atexit.unregister(self.finish)
        self.put_current()
        self.flush()

    def close(self) -> None:
        """Write every record, and close the sinks."""
        with ExitStack() as stack:  # every sink is closed, even if another one fails
            stack.callback(self._sinks.clear)
            for sink in self._sinks:
                stack.callback(sink.close)
            self.finish()

    def drop(self) -> None:
        """Empty the queue in a forked process: the parent process writes its records."""
        self._waiting.clear()
        self.current = None


_OUTBOXES: WeakSet[Outbox] = WeakSet()


def _after_fork() -> None:
    for outbox in _OUTBOXES:
        outbox.drop()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_after_fork)


Settings = tuple[float | None, float | None, tuple[float, float] | None, float | None]
"""The settings of a group: lr, weight_decay, betas and momentum, the first fields of :class:`Numbers`."""


def group_settings(optimizer: Optimizer) -> list[Settings]:
    """Return the current settings of every group."""
    return [_settings(group) for group in optimizer.param_groups]


def rule_settings(rule: Rule) -> Settings:
    """Return the settings of a rule, as :func:`group_settings` returns those of a group."""
    return _settings(vars(rule))


@final
class GroupRows:
    """Sums the statistics of parameters into one row for each group."""

    _groups: NDArray[np.int64] | None = None
    """The groups of the previous update's rows, (rows,); consecutive updates mostly share this array."""
    _present: Sequence[int]
    _first: NDArray[np.int64]
    _elements: Sequence[int]

    def make(self, statistics: StatisticsTable, settings: Sequence[Settings], clip: float) -> tuple[Numbers, ...]:
        """Return a row for each group.

        Args:
            statistics: the statistics of the step.
            settings: the settings of the groups.
            clip: the factor by which the gradients were clipped before the optimizer's step.
        """
        if statistics.groups is not self._groups:
            self._index_rows(statistics)
        table, non_finite = statistics.table, statistics.non_finite
        if len(table) > len(self._present):
            table = np.empty((len(self._present), table.shape[1]))
            np.add.reduceat(statistics.table[:, :SUMS], self._first, out=table[:, :SUMS])
            np.fmin.reduceat(statistics.table[:, SUMS], self._first, out=table[:, SUMS])
            np.fmax.reduceat(statistics.table[:, SUMS + 1], self._first, out=table[:, SUMS + 1])
            non_finite = None if non_finite is None else np.add.reduceat(non_finite, self._first)
        rows, counts = table.tolist(), repeat(0, len(table)) if non_finite is None else non_finite.tolist()
        by_group = dict(zip(self._present, zip(self._elements, rows, counts)))
        return tuple([_make_numbers(own, clip, *by_group.get(group, _NONE)) for group, own in enumerate(settings)])

    def _index_rows(self, statistics: StatisticsTable) -> None:
        """Find the groups that have rows, the first row of each group, and the elements of each group."""
        present, self._first = np.unique(statistics.groups, return_index=True)
        self._groups, self._present = statistics.groups, present.tolist()
        self._elements = np.add.reduceat(statistics.elements, self._first).tolist() if self._present else []


def per_parameter(statistics: StatisticsTable, clip: float) -> PerParameter:
    """Return a row for each parameter; ``clip`` is the factor of clipping before the optimizer's step."""
    grad, weight, update, unmoved, least, most = np.array(statistics.table.T, order="C")
    non_finite = np.zeros(len(statistics.index)) if statistics.non_finite is None else statistics.non_finite
    with np.errstate(over="ignore", invalid="ignore"):  # a diverged run has numbers beyond float32, or NaN
        roots = np.sqrt((grad / clip**2, weight, update, least, most)).astype(np.float32)
    return PerParameter(
        index=statistics.index.astype(np.int32),
        grad_norm=roots[0],
        weight_norm=roots[1],
        update_norm=roots[2],
        unmoved=unmoved.astype(np.float32),
        root_min=roots[3],
        root_max=roots[4],
        non_finite=non_finite.astype(np.float32),
    )


_NONE: tuple[int, Sequence[float], float] = (0, (), 0)
"""The elements, row and non-finite count of a group without gradients."""


def _make_numbers(settings: Settings, clip: float, elements: int, row: Sequence[float], non_finite: float) -> Numbers:
    if not elements:
        return Numbers(*settings)
    grad, weight, update, unmoved, least, most = row
    return Numbers(
        *settings,
        elements,
        _root(grad) / clip,
        _root(weight),
        _root(update),
        int(unmoved),
        None if math.isnan(least) else _root(least),
        None if math.isnan(most) else _root(most),
        int(non_finite),
    )


def _root(square: float) -> float:
    return math.sqrt(square) if square >= 0 else math.nan


def _settings(group: Mapping[str, Any]) -> Settings:
    betas = group.get("betas")
    pair = None if betas is None or len(betas) != 2 else (float(betas[0]), float(betas[1]))
    return _to_float(group.get("lr")), _to_float(group.get("weight_decay")), pair, _to_float(group.get("momentum"))


def _to_float(setting: Any) -> float | None:
    """Return a setting as a number, since a schedule may change a tensor in place."""
    return None if setting is None else float(setting)


NO_CLIP = 1 - 1e-5
"""A ratio of norms above this is a rounding error, not clipping."""


@final
@dataclass(slots=True)
class Pending:
    """The fields of an update before its record is made; see :class:`gradstep.monitor.record.Update`.

    Attributes:
        settings: the settings of each group in this update, or the rule that holds them.
        clip: the optimizer's own clip factor.
        collected: the statistics, if they were collected.
        uncleared, other_optimizer: the observations between the previous step and this one.
        extra: further numbers that were logged.
    """

    number: int
    settings: Sequence[Settings | Rule]
    seconds: float | None = None
    clip: float | None = None
    loss_scale: float | None = None
    skipped: str = ""
    culprit: str | None = None
    micro_batches: int | None = None
    loss: float | None = None
    grad_norm: float | None = None
    collected: CollectedStep | None = None
    uncleared: bool | None = None
    other_optimizer: str = ""
    extra: Mapping[str, float] = field(default_factory=dict)
    time: float = field(default_factory=time.time)

    def add_outcome(self, outcome: Outcome) -> None:
        """Add the fields of a stepper's outcome."""
        self.loss, self.grad_norm = outcome.loss, outcome.grad_norm
        self.skipped, self.culprit = outcome.reason, outcome.parameter
        self.loss_scale, self.micro_batches = outcome.loss_scale, outcome.micro_batches

    @property
    def alarming(self) -> bool:
        """Whether the record has to be written at once: a skipped update, or a non-finite gradient or loss."""
        return (
            bool(self.skipped)
            or not (self.collected is None or self.collected.finite)
            or not (self.loss is None or math.isfinite(self.loss))
        )

    def make_record(self, groups: GroupRows, *, single: bool) -> Update:
        """Make the record.

        Args:
            groups: makes the rows of the groups.
            single: whether to include the numbers of single parameters.
        """
        statistics = None if self.collected is None else self.collected.make_table()
        outer_clip = 1.0 if statistics is None else self._outer_clip(statistics)
        settings = [rule_settings(own) if isinstance(own, Rule) else own for own in self.settings]
        return Update(
            self.number,
            self.time,
            loss=self.loss,
            groups=tuple(Numbers(*own) for own in settings)
            if statistics is None
            else groups.make(statistics, settings, outer_clip),
            clip=self._total_clip(outer_clip),
            seconds=self.seconds,
            loss_scale=self.loss_scale,
            skipped=self.skipped,
            culprit=self.culprit,
            micro_batches=self.micro_batches,
            parameters=per_parameter(statistics, outer_clip) if statistics is not None and single else None,
            uncleared=self.uncleared,
            other_optimizer=self.other_optimizer,
            extra=self.extra,
        )

    def _total_clip(self, outer_clip: float) -> float | None:
        if self.skipped or (self.clip is None and self.grad_norm is None):
            return None
        return outer_clip if self.clip is None else self.clip * outer_clip

    def _outer_clip(self, statistics: StatisticsTable) -> float:
        """Return the factor by which the gradients were clipped before the optimizer's step."""
        if self.grad_norm is None:
            return 1.0
        step_norm = math.sqrt(float(statistics.table[:, 0].sum()))
        if not (0 < step_norm < self.grad_norm * NO_CLIP and math.isfinite(self.grad_norm)):
            return 1.0
        return step_norm / self.grad_norm

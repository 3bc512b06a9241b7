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
from operator import methodcaller
from time import monotonic
from typing import TYPE_CHECKING, Any, final
from weakref import WeakSet

import numpy as np

from gradstep.engines.statistics import SUMS
from gradstep.monitor.record import Header, Numbers, PerParameter, Update
from gradstep.monitor.sinks import Sink
from gradstep.monitor.statistics import CollectedStep
from gradstep.rules import Rule

if TYPE_CHECKING:
    from gradstep.training.outcome import UpdateOutcome

INTERVAL = 1.0
"""Seconds between two writes while updates are made."""

MOST_QUEUED = 64
"""Most records in the queue: with 10,000 tensors a record has half a megabyte."""


@final
class Outbox:
    """Queues the records of a monitor, and writes them to its sinks together.

    A step evicts Python's data from the processor's caches. A record that is made right after it takes most of a
    millisecond; records made by the dozen take a tenth of that each. Therefore they wait for about a second, unless one
    is alarming. There is no thread for this: it would compete with the training for the processors and for Python's
    lock.

    At the end of the process the waiting records are written, even without :meth:`close`. ``single`` says whether to
    record the numbers of single parameters.
    """

    current: Pending | None = None
    """The last update, as long as :meth:`gradstep.Monitor.log` may add to it."""

    def __init__(self, sinks: Sequence[Sink], *, single: bool) -> None:
        self._sinks = list(sinks)
        self._single = single
        self._waiting: deque[Pending | Update] = deque()
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
        if at_once or len(self._waiting) >= MOST_QUEUED or monotonic() - self._last_write >= INTERVAL:
            self.flush()

    def flush(self) -> None:
        """Write every queued record."""
        if not self._waiting:
            return
        while self._waiting:
            entry = self._waiting.popleft()
            update = entry if isinstance(entry, Update) else entry.make_record(single=self._single)
            self._call(methodcaller("write", update))
        self._call(methodcaller("flush"))
        self._last_write = monotonic()

    def _call(self, method: Callable[[Sink], None]) -> None:
        for sink in list(self._sinks):
            try:
                method(sink)
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


GroupSettings = tuple[float | None, float | None, tuple[float, float] | None, float | None]
"""The settings of a group: lr, weight_decay, betas and momentum, the first fields of :class:`Numbers`."""


def read_settings(group: Mapping[str, Any]) -> GroupSettings:
    """Return the current settings of a group, or of the variables of a rule."""
    betas = group.get("betas")
    pair = None if betas is None or len(betas) != 2 else (float(betas[0]), float(betas[1]))
    return _to_float(group.get("lr")), _to_float(group.get("weight_decay")), pair, _to_float(group.get("momentum"))


def group_rows(step: CollectedStep, settings: Sequence[GroupSettings], clip: float) -> tuple[Numbers, ...]:
    """Return a row for each group; ``clip`` is the factor of clipping before the optimizer's step."""
    index, elements, table = step.statistics.index, step.statistics.elements, step.table
    non_finite = np.zeros(len(index)) if step.non_finite is None else step.non_finite
    if step.statistics.detail == "parameters" and len(index):
        groups = step.statistics.groups  # ascending
        first = np.concatenate(([0], np.flatnonzero(groups[1:] != groups[:-1]) + 1))
        index = groups[first]
        elements, non_finite = np.add.reduceat(elements, first), np.add.reduceat(non_finite, first)
        low, high = np.fmin.reduceat(table[:, SUMS], first), np.fmax.reduceat(table[:, SUMS + 1], first)
        table = np.column_stack((np.add.reduceat(table[:, :SUMS], first), low, high))
    by_group = dict(zip(index.tolist(), zip(elements.tolist(), table.tolist(), non_finite.tolist())))
    return tuple([_make_numbers(own, clip, *by_group.get(group, _NONE)) for group, own in enumerate(settings)])


def per_parameter(step: CollectedStep, clip: float) -> PerParameter:
    """Return a row for each parameter; ``clip`` is the factor of clipping before the optimizer's step."""
    grad, weight, update, unmoved, least, most = np.array(step.table.T, order="C")
    non_finite = np.zeros(len(unmoved)) if step.non_finite is None else step.non_finite
    with np.errstate(over="ignore", invalid="ignore"):  # a diverged run has numbers beyond float32, or NaN
        grads, weights, updates, low, high = np.sqrt((grad / clip**2, weight, update, least, most)).astype(np.float32)
    lost, odd = np.array((unmoved, non_finite), dtype=np.float32)
    return PerParameter(step.statistics.index.astype(np.int32), grads, weights, updates, lost, low, high, odd)


_NONE: tuple[int, Sequence[float], float] = (0, (), 0)
"""The elements, row and non-finite count of a group without gradients."""


def _make_numbers(
    settings: GroupSettings, clip: float, elements: int, row: Sequence[float], non_finite: float
) -> Numbers:
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


def _to_float(setting: Any) -> float | None:
    """Return a setting as a number, since a schedule may change a tensor in place."""
    return None if setting is None else float(setting)


NO_CLIP = 1 - 1e-5
"""A ratio of norms above this is a rounding error, not clipping."""


@final
@dataclass(slots=True)
class Pending:
    """An update before its record is made."""

    number: int  # the number of the update
    settings: Sequence[GroupSettings | Rule]  # the settings of each group in this update, or the rule that holds them
    fields: dict[str, Any]  # fields of :class:`gradstep.monitor.record.Update` that the record gets as they are
    clip: float | None = None  # the optimizer's own clip factor
    grad_norm: float | None = None  # the norm before any clipping, if it was logged
    collected: CollectedStep | None = None  # the statistics, if they were collected
    time: float = field(default_factory=time.time)

    def add_outcome(self, outcome: UpdateOutcome) -> None:
        """Add the fields of a stepper's outcome."""
        self.grad_norm = outcome.grad_norm
        self.fields |= {
            "loss": outcome.loss,
            "skipped": outcome.reason,
            "culprit": outcome.parameter,
            "loss_scale": outcome.loss_scale,
            "micro_batches": outcome.micro_batches,
        }

    @property
    def alarming(self) -> bool:
        """Whether the record has to be written at once: a skipped update, or a non-finite gradient or loss."""
        loss, collected = self.fields.get("loss"), self.collected
        return (
            bool(self.fields.get("skipped"))
            or not (collected is None or collected.non_finite is None)
            or not (loss is None or math.isfinite(loss))
        )

    def make_record(self, *, single: bool) -> Update:
        """Make the record; ``single`` includes the numbers of single parameters."""
        settings = [read_settings(vars(own)) if isinstance(own, Rule) else own for own in self.settings]
        outer_clip = self._outer_clip()
        if self.collected is None:
            rows, parameters = tuple(Numbers(*own) for own in settings), None
        else:
            rows = group_rows(self.collected, settings, outer_clip)
            parameters = per_parameter(self.collected, outer_clip) if single else None
        clip = None
        if not self.fields.get("skipped") and (self.clip is not None or self.grad_norm is not None):
            clip = outer_clip if self.clip is None else self.clip * outer_clip
        return Update(self.number, self.time, groups=rows, clip=clip, parameters=parameters, **self.fields)

    def _outer_clip(self) -> float:
        """Return the factor by which the gradients were clipped before the optimizer's step."""
        if self.grad_norm is None or self.collected is None:
            return 1.0
        step_norm = math.sqrt(float(self.collected.table[:, 0].sum()))
        if not (0 < step_norm < self.grad_norm * NO_CLIP and math.isfinite(self.grad_norm)):
            return 1.0
        return step_norm / self.grad_norm

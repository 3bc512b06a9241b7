"""The queue of records, which are made and written together about once a second."""

from __future__ import annotations

import atexit
import os
import sys
import warnings
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from time import monotonic
from typing import final
from weakref import WeakSet

from gradstep.monitor.pending import GroupRows, Pending
from gradstep.monitor.record import Header, Update
from gradstep.monitor.sinks.base import Sink

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

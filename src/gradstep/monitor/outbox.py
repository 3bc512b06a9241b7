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

from gradstep.monitor.pending import Groups, Pending
from gradstep.monitor.record import Header, Update
from gradstep.monitor.sinks.base import Sink

INTERVAL = 1.0
"""Seconds between two times of writing, while there are updates."""

MOST = 64
"""Records that wait at most: the numbers of 10,000 tensors are half a megabyte in each."""


@final
class Outbox:
    """Queue the records of a monitor and write them to its sinks together.

    A step leaves nothing of Python in the processor's caches. Made one by one after each of them, a record takes most
    of a millisecond; made by the dozen, a tenth of that. So they wait for about a second; those that are alarming, and
    what waits before them, do not. No thread of its own does this: it would compete with the training for the
    processors and for Python's lock.

    Nobody need close it: at the end of the process what waits is written.

    Args:
        sinks: where records go.
        single: whether the numbers of single parameters are wanted.
    """

    current: Pending | None = None
    """The update that was made last, as long as more may be told about it."""

    def __init__(self, sinks: Sequence[Sink], *, single: bool) -> None:
        self._sinks = list(sinks)
        self._single = single
        self._waiting: deque[Pending | Update] = deque()
        self._groups = Groups()
        self._written = monotonic()
        _every.add(self)

    def open(self, header: Header) -> None:
        """Queue a header, which the sinks get before the updates that follow."""
        self.flush()
        for sink in self._sinks:
            sink.open(header)
        atexit.unregister(self.finish)
        atexit.register(self.finish)  # after the sinks' own, that is: before theirs are called

    def put_current(self) -> None:
        """Nothing more will be told about the update that was made last."""
        if self.current is not None:
            done, self.current = self.current, None
            self.put(done, at_once=done.alarming)

    def put(self, entry: Pending | Update, *, at_once: bool = False) -> None:
        """Queue an entry; entries are written in this order."""
        self._waiting.append(entry)
        if at_once or len(self._waiting) >= MOST or monotonic() - self._written >= INTERVAL:
            self.flush()

    def flush(self) -> None:
        """Write every queued record."""
        if not self._waiting:
            return
        while self._waiting:
            entry = self._waiting.popleft()
            update = entry if isinstance(entry, Update) else entry.record(self._groups, single=self._single)
            for sink in list(self._sinks):
                self._tell(sink, partial(sink.write, update))
        for sink in list(self._sinks):
            self._tell(sink, sink.flush)
        self._written = monotonic()

    def _tell(self, sink: Sink, something: Callable[[], None]) -> None:
        try:
            something()
        except OSError as error:  # a full disk ends the record, not the training
            self._sinks.remove(sink)
            warnings.warn(f"{type(sink).__name__} gets no more records: {error}", stacklevel=2)

    def finish(self) -> None:
        """Write everything; nothing more will come."""
        atexit.unregister(self.finish)
        self.put_current()
        self.flush()

    def close(self) -> None:
        """Write everything, and close the sinks."""
        with ExitStack() as stack:  # every sink is closed, even if another one fails
            stack.callback(self._sinks.clear)
            for sink in self._sinks:
                stack.callback(sink.close)
            self.finish()

    def forget(self) -> None:
        """This process is a copy of the one that will write what waits."""
        self._waiting.clear()
        self.current = None


_every: WeakSet[Outbox] = WeakSet()


def _after_fork() -> None:
    for outbox in _every:
        outbox.forget()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_after_fork)

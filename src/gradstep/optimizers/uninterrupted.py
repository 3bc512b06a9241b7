"""Letting signals wait while weights, state and step counts do not belong together."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, final

try:  # what signal calls, without the making of enums, which costs 50 microseconds a step
    import _signal  # type: ignore[import-not-found]
except ImportError:
    _signal = signal

Handler = Callable[[int, FrameType | None], Any]

_NAMES = """
    SIGINT SIGTERM SIGBREAK SIGHUP SIGQUIT SIGALRM SIGVTALRM SIGPROF SIGUSR1 SIGUSR2 SIGXCPU SIGTSTP SIGCONT SIGCHLD
    SIGWINCH SIGIO
"""
_SIGNALS = tuple(getattr(signal, name) for name in _NAMES.split() if hasattr(signal, name))
"""The signals whose handlers people write: all that a process can outlive, but for those of real time."""


@final
class _Waiting:
    """Handles signals in place of their handlers: keeps them until it is opened, then passes them on."""

    def __init__(self) -> None:
        self.handlers: dict[int, Handler] = {}
        self.signals: list[tuple[int, FrameType | None]] = []
        self.is_open = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.is_open:
            self.handlers[number](number, frame)
        else:
            self.signals.append((number, frame))


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Have the handlers of signals, Ctrl-C's among them, wait until the block is done; only the main thread runs any.

    >>> import os
    >>> try:
    ...     with uninterrupted():
    ...         os.kill(os.getpid(), signal.SIGINT)
    ...         print("goes on to its end")
    ... except KeyboardInterrupt:
    ...     print("and is interrupted then")
    goes on to its end
    and is interrupted then
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    waiting = _Waiting()
    try:
        for number in _SIGNALS:
            handler = _signal.getsignal(number)
            waits_already = isinstance(handler, _Waiting) and not handler.is_open  # for a block around this one
            if callable(handler) and not waits_already:
                waiting.handlers[number] = handler
                _signal.signal(number, waiting)
        yield
    finally:
        # From here on signals pass through, so that one that raises in the middle leaves no handler behind that waits.
        waiting.is_open = True
        for number, handler in waiting.handlers.items():
            _signal.signal(number, handler)
        for number, frame in waiting.signals:
            waiting.handlers[number](number, frame)

"""Warnings that point at the user's line, however deep in the library they are raised."""

from __future__ import annotations

import inspect
import warnings

_LIBRARIES = frozenset({"gradstep", "torch"})


def warn_user(message: str) -> None:
    """Issue a ``UserWarning`` for the innermost line outside of gradstep and torch, which the reader can change."""
    frame, level = inspect.currentframe(), 1
    while frame is not None and str(frame.f_globals.get("__name__", "")).partition(".")[0] in _LIBRARIES:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, UserWarning, stacklevel=max(1, level - 1) if frame is None else level)

"""Warnings that point at the user's line, however deep in the library they are raised; old spellings go on working."""

from __future__ import annotations

import functools
import inspect
import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar

Accepted = ParamSpec("Accepted")
Returned = TypeVar("Returned")

_LIBRARIES = frozenset({"gradstep", "torch", "abc"})  # a class with a metaclass of abc is made in abc


def warn_user(message: str, category: type[Warning] = UserWarning) -> None:
    """Issue a warning for the innermost line outside of gradstep and torch, which the reader can change."""
    frame, level = inspect.currentframe(), 1
    while frame is not None and str(frame.f_globals.get("__name__", "")).partition(".")[0] in _LIBRARIES:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=max(1, level - 1) if frame is None else level)


# -- old spellings ----------------------------------------------------------------------------------------------------


def take_old_argument(
    old: str, new: str, values: Mapping[Any, Any]
) -> Callable[[Callable[Accepted, Returned]], Callable[Accepted, Returned]]:
    """Let a function take a renamed keyword argument under its old name too, with a DeprecationWarning.

    Args:
        old, new: the names of the argument.
        values: the new spelling of each old value; other values are passed on.

    >>> @take_old_argument("sharded", "sharding", {"none": "ddp"})
    ... def plan(*, sharding: str) -> str:
    ...     return sharding
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("ignore")
    ...     plan(sharded="none")
    'ddp'
    """

    def decorate(function: Callable[Accepted, Returned]) -> Callable[Accepted, Returned]:
        @functools.wraps(function)
        def call(*args: Accepted.args, **named: Accepted.kwargs) -> Returned:
            if old in named:
                if new in named:
                    raise TypeError(f"{function.__name__}() takes {new}= or its old spelling {old}=, not both")
                given = named.pop(old)
                named[new] = values.get(given, given)
                warn_user(f"{old}={given!r} is now {new}={named[new]!r}", DeprecationWarning)
            return function(*args, **named)

        return call

    return decorate


def find_old_name(module: str, name: str, renamed: Mapping[str, str]) -> Any:
    """Return what a module's old name stands for, with a DeprecationWarning; for the module's ``__getattr__``.

    Args:
        module: the module's name.
        name: the name that was looked up, and that the module does not have.
        renamed: the present name for each old one.

    Raises:
        AttributeError: it is no old name either.
    """
    if name not in renamed:
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    warn_user(f"{module}.{name} is now {module}.{renamed[name]}", DeprecationWarning)
    return getattr(sys.modules[module], renamed[name])

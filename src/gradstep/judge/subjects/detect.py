"""Which form a submission has, from what it is."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from types import CodeType
from typing import Any

from gradstep.judge.scenario import Values
from gradstep.judge.subjects.arguments import Arguments, arguments_of
from gradstep.judge.subjects.base import Kind, Subject
from gradstep.judge.subjects.numpy_optimizer import NumpySubject, Parameter
from gradstep.judge.subjects.pure_function import FunctionSubject
from gradstep.rules import Rule, settings_of

_FUNCTION_PLACES = 4


def subject_of(
    submission: Any,
    rule: type[Rule],
    settings: Mapping[str, Any],
    kind: Kind | None = None,
    parameter: Callable[[Values], Any] | None = None,
) -> Subject:
    """The submission behind the common interface.

    Args:
        submission: a class, a factory or a function.
        rule: what it should compute.
        settings: fixed settings; those that the rule does not know are given to the submission as they are.
        kind: its form, if it is not to be told from the submission itself.
        parameter: for NumPy optimizers, what makes a parameter of an array.

    Raises:
        TypeError: it is nothing that can be called, or it needs arguments that nobody gave.
    """
    if not callable(submission):
        raise TypeError(f"{submission!r} is no class, factory or function")
    kind = kind or _kind(submission)
    known = {f.name for f in settings_of(rule)}
    extra = {name: value for name, value in settings.items() if name not in known}
    arguments = arguments_of(submission, rule, skip=_FUNCTION_PLACES if kind == "function" else 1, extra=extra)
    if arguments.unknown:
        raise TypeError(
            f"it needs the argument{'s' if len(arguments.unknown) > 1 else ''} {', '.join(arguments.unknown)}, which "
            f"{rule.__name__} does not have: give a value with settings={{{arguments.unknown[0]!r}: ...}}"
        )
    return _made(submission, kind, arguments, extra, parameter)


def _made(
    submission: Any, kind: Kind, arguments: Arguments, extra: dict[str, Any], parameter: Callable[[Values], Any] | None
) -> Subject:
    if kind == "function":
        return FunctionSubject(submission, arguments, extra, tensors=_speaks_torch(submission))
    if kind == "numpy":
        return NumpySubject(submission, arguments, extra, parameter or Parameter)
    from gradstep.judge.subjects.torch_optimizer import TorchSubject

    return TorchSubject(submission, arguments, extra)


def _kind(submission: Any) -> Kind:
    if not isinstance(submission, type) and _required_places(submission) >= _FUNCTION_PLACES:
        return "function"
    return "torch" if _speaks_torch(submission) else "numpy"


def _required_places(submission: Callable[..., Any]) -> int:
    try:
        parameters = inspect.signature(submission).parameters.values()
    except (TypeError, ValueError):
        return 0
    return sum(p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)


def _speaks_torch(submission: Any) -> bool:
    """Whether its code uses torch: by a base class, a name of torch's, or a method such as ``add_``."""
    if isinstance(submission, functools.partial):
        return _speaks_torch(submission.func)
    if isinstance(submission, type):
        if _of_torch(submission):
            return True
        functions = [f for base in submission.__mro__ for f in vars(base).values() if inspect.isfunction(f)]
    else:
        functions = [f for f in (submission, type(submission).__call__) if inspect.isfunction(f)]
    return any(_uses_torch(f) for f in functions)


def _uses_torch(function: Any) -> bool:
    names = set(_names(inspect.unwrap(function).__code__))
    torch_names = {name for name, value in function.__globals__.items() if _of_torch(value)}
    return bool(names & (torch_names | {"torch"})) or any(n[-1:] == "_" and n[:1] != "_" for n in names)


def _of_torch(value: Any) -> bool:
    """Whether it is torch, part of it, or a class derived from one of torch's."""
    if inspect.ismodule(value):
        modules = [value.__name__]
    else:
        modules = [base.__module__ for base in (value if isinstance(value, type) else type(value)).__mro__]
    return any(module.partition(".")[0] == "torch" for module in modules)


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)

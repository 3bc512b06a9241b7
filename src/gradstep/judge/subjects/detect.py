"""Which form a submission has, from what it is."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from types import CodeType, FunctionType
from typing import Any

import numpy as np

from gradstep.judge.scenario import Scenario, Values
from gradstep.judge.subjects.arguments import Arguments, arguments_of
from gradstep.judge.subjects.base import Kind, Subject
from gradstep.judge.subjects.configured import ConfiguredSubject, arguments_of_config
from gradstep.judge.subjects.numpy_optimizer import NumpySubject, Parameter
from gradstep.judge.subjects.pure_function import FunctionSubject
from gradstep.judge.subjects.updater import UpdaterSubject, method_of
from gradstep.rules import Rule
from gradstep.rules.settings import shared_settings_of

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
    known = {f.name for f in shared_settings_of(rule)}
    extra = {name: value for name, value in settings.items() if name not in known}
    if kind == "function" and _is_configured(submission):
        tensors = _speaks_torch(submission)
        return ConfiguredSubject(submission, arguments_of_config(submission, rule, tensors), extra, tensors=tensors)
    skip = {"function": _FUNCTION_PLACES, "update": 0}.get(kind, 1)
    arguments = arguments_of(submission, rule, skip=skip, extra=extra)
    if arguments.unknown:
        raise TypeError(
            f"it needs the argument{'s' if len(arguments.unknown) > 1 else ''} {', '.join(arguments.unknown)}, which "
            f"{rule.__name__} does not have: give a value with settings={{{arguments.unknown[0]!r}: ...}}"
        )
    if isinstance(submission, type) and kind in ("torch", "numpy") and "step" not in dir(submission):
        raise TypeError(f"it has neither step() nor update(w, grad). {FORMS}")
    made = _made(submission, kind, arguments, extra, parameter)
    refused = frozenset(name for name in arguments.open if _refuses(made, rule, name))
    return replace(made, arguments=arguments.without(refused)) if refused else made


def _refuses(subject: Subject, rule: type[Rule], name: str) -> bool:
    """Whether ``**keywords`` lead to an error for this setting, as an unknown name does."""
    default = next(f.default for f in shared_settings_of(rule) if f.name == name)
    shown = {n: f.default for f in shared_settings_of(rule) for n in (f.name,) if n in subject.arguments.offered}
    plain = {n: v for n, v in shown.items() if n not in subject.arguments.open}
    trial = Scenario("", "", {**plain, name: default}, (np.zeros((2, 3)),), ((np.zeros((2, 3)),),))
    try:
        subject.start(trial, "float64")
    except TypeError:
        return True
    except Exception:
        return False
    return False


def _made(
    submission: Any, kind: Kind, arguments: Arguments, extra: dict[str, Any], parameter: Callable[[Values], Any] | None
) -> Subject:
    if kind == "function":
        return FunctionSubject(submission, arguments, extra, tensors=_speaks_torch(submission))
    if kind == "numpy":
        return NumpySubject(submission, arguments, extra, parameter or Parameter)
    if kind == "update":
        method = method_of(submission)
        if method is None:
            raise TypeError(f"it has no method update(w, grad). {FORMS}")
        return UpdaterSubject(submission, arguments, extra, method, tensors=_speaks_torch(submission))
    from gradstep.judge.subjects.torch_optimizer import TorchSubject

    return TorchSubject(submission, arguments, extra)


FORMS = (
    "The forms that are known: a class or factory (params, **settings) with step(), over PyTorch's parameters or over "
    "objects with .data and .grad; a class (**settings) with update(w, grad) or update(params, grads); a function "
    "(p, g, state, step, **settings) -> (p, state), or (w, dw, config) -> (w, config)"
)


def _kind(submission: Any) -> Kind:
    """The form, from what the submission is."""
    if not isinstance(submission, type):
        function = isinstance(submission, FunctionType)
        if _required_places(submission) >= _FUNCTION_PLACES or (function and _is_configured(submission)):
            return "function"
    elif not _of_torch(submission):
        steps = inspect.getattr_static(submission, "step", None)
        alone = inspect.isfunction(steps) and _required_places(steps) <= 1
        if not alone and method_of(submission) is not None:
            return "update"
    return "torch" if _speaks_torch(submission) else "numpy"


def _is_configured(submission: Any) -> bool:
    """Whether it is a function of a parameter, a gradient and one dictionary."""
    try:
        places = list(inspect.signature(submission).parameters.values())
    except (TypeError, ValueError):
        return False
    return len(places) == 3 and places[2].name in _CONFIGS and places[1].default is inspect.Parameter.empty


_CONFIGS = ("config", "cfg", "conf", "cache", "opt_config", "optim_config", "state", "opt_state")


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

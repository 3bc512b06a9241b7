"""Find the form of a submission; and NumPy optimizers, the form of a class that shows no other."""

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from types import CodeType, FunctionType
from typing import Any, ClassVar, final

import numpy as np

from gradstep.judge.scenario import Gradients, Scenario, Values, shared_defaults
from gradstep.judge.subjects.functions import FunctionSubject, UpdaterSubject, arguments_of_config, find_method
from gradstep.judge.subjects.subject import Arguments, Kind, NotOfferedError, Session, Subject, arguments_of
from gradstep.rules import Rule

_FUNCTION_PLACES = 4


def subject_of(
    submission: Any,
    rule: type[Rule],
    settings: Mapping[str, Any],
    kind: Kind | None = None,
    parameter: Callable[[Values], Any] | None = None,
) -> Subject:
    """Return the submission behind the common interface.

    Args:
        submission, rule, kind, parameter: as for :func:`gradstep.check`.
        settings: fixed settings; those that the rule does not have go to the submission unchanged.

    Raises:
        TypeError: it cannot be called, or it needs arguments that are not given.
    """
    if not callable(submission):
        raise TypeError(f"{submission!r} is no class, factory or function")
    kind = kind or _detect_kind(submission)
    extra = {name: value for name, value in settings.items() if name not in shared_defaults(rule)}
    if kind == "function" and _takes_config(submission):
        tensors = _uses_torch(submission)
        arguments = arguments_of_config(submission, rule, tensors)
        return FunctionSubject(submission, arguments, extra, tensors, takes_config=True)
    skip = {"function": _FUNCTION_PLACES, "update": 0}.get(kind, 1)
    arguments = arguments_of(submission, rule, skip=skip, extra=extra)
    if arguments.unknown:
        raise TypeError(
            f"it needs the argument{'s' if len(arguments.unknown) > 1 else ''} {', '.join(arguments.unknown)}, which "
            f"{rule.__name__} does not have: give a value with settings={{{arguments.unknown[0]!r}: ...}}"
        )
    if isinstance(submission, type) and kind in ("torch", "numpy") and "step" not in dir(submission):
        raise TypeError(f"it has neither step() nor update(w, grad). {FORMS}")
    subject = _make_subject(submission, kind, arguments, extra, parameter)
    refused = frozenset(name for name in arguments.open if _refuses(subject, rule, name))
    return replace(subject, arguments=arguments.without(refused)) if refused else subject


def describe_submission(submission: Any) -> str:
    """Return the submission's name."""
    if isinstance(submission, functools.partial):
        return describe_submission(submission.func)
    has_name = isinstance(submission, type) or inspect.isroutine(submission)
    return str(submission.__name__ if has_name else type(submission).__name__)


def _refuses(subject: Subject, rule: type[Rule], name: str) -> bool:
    """Whether ``**keywords`` raise TypeError for this setting, as for an unknown name."""
    defaults = shared_defaults(rule)
    plain = {n: defaults[n] for n in defaults if n in subject.arguments.offered - subject.arguments.open}
    scenario = Scenario("", "", {**plain, name: defaults[name]}, (np.zeros((2, 3)),), ((np.zeros((2, 3)),),))
    try:
        subject.start(scenario, "float64")
    except Exception as error:
        return isinstance(error, TypeError)
    return False


def _make_subject(
    submission: Any, kind: Kind, arguments: Arguments, extra: dict[str, Any], parameter: Callable[[Values], Any] | None
) -> Subject:
    if kind == "function":
        return FunctionSubject(submission, arguments, extra, tensors=_uses_torch(submission))
    if kind == "numpy":
        return NumpySubject(submission, arguments, extra, parameter or BareParameter)
    if kind == "update":
        method = find_method(submission)
        if method is None:
            raise TypeError(f"it has no method update(w, grad). {FORMS}")
        return UpdaterSubject(submission, arguments, extra, method, tensors=_uses_torch(submission))
    from gradstep.judge.subjects.torch_optimizer import TorchSubject

    return TorchSubject(submission, arguments, extra)


FORMS = (
    "The forms that are known: a class or factory (params, **settings) with step(), over PyTorch's parameters or over "
    "objects with .data and .grad; a class (**settings) with update(w, grad) or update(params, grads); a function "
    "(p, g, state, step, **settings) -> (p, state), or (w, dw, config) -> (w, config)"
)


def _detect_kind(submission: Any) -> Kind:
    """Return the form that the submission shows."""
    if not isinstance(submission, type):
        function = isinstance(submission, FunctionType)
        if _count_required(submission) >= _FUNCTION_PLACES or (function and _takes_config(submission)):
            return "function"
    elif not _is_torch(submission):
        step = inspect.getattr_static(submission, "step", None)
        takes_nothing = inspect.isfunction(step) and _count_required(step) <= 1
        if not takes_nothing and find_method(submission) is not None:
            return "update"
    return "torch" if _uses_torch(submission) else "numpy"


def _takes_config(submission: Any) -> bool:
    """Whether its arguments are a parameter, a gradient and one dictionary of settings and state."""
    try:
        places = list(inspect.signature(submission).parameters.values())
    except (TypeError, ValueError):
        return False
    return len(places) == 3 and places[2].name in _CONFIGS and places[1].default is inspect.Parameter.empty


_CONFIGS = ("config", "cfg", "conf", "cache", "opt_config", "optim_config", "state", "opt_state")


def _count_required(submission: Callable[..., Any]) -> int:
    try:
        parameters = inspect.signature(submission).parameters.values()
    except (TypeError, ValueError):
        return 0
    return sum(p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)


def _uses_torch(submission: Any) -> bool:
    """Whether its code uses torch: a base class, a name from torch, or a method such as ``add_``."""
    if isinstance(submission, functools.partial):
        return _uses_torch(submission.func)
    if isinstance(submission, type):
        if _is_torch(submission):
            return True
        functions = [f for base in submission.__mro__ for f in vars(base).values() if inspect.isfunction(f)]
    else:
        functions = [f for f in (submission, type(submission).__call__) if inspect.isfunction(f)]
    return any(_code_uses_torch(f) for f in functions)


def _code_uses_torch(function: Any) -> bool:
    names = set(_names(inspect.unwrap(function).__code__))
    torch_names = {name for name, value in function.__globals__.items() if _is_torch(value)}
    return bool(names & (torch_names | {"torch"})) or any(n[-1:] == "_" and n[:1] != "_" for n in names)


def _is_torch(value: Any) -> bool:
    """Whether it is a module or an object of torch, or a class derived from one of torch's."""
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


@final
class Gradient(np.ndarray):
    """An array whose ``.data`` is the array itself, for frameworks in which gradients are tensors."""

    @property
    def data(self) -> Any:
        return self.view(np.ndarray)


@final
class BareParameter:
    """The least that a NumPy optimizer needs of a parameter: values, and a gradient or None."""

    def __init__(self, data: Values) -> None:
        self.data: Any = data
        self.grad: Any = None
        self.requires_grad = True

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the values."""
        return np.shape(self.data)

    def zero_grad(self) -> None:
        """Remove the gradient."""
        self.grad = None


@final
@dataclass(frozen=True)
class NumpySubject(Subject):
    """A class called as ``make(params, **settings)``, which steps by ``step()``.

    Attributes:
        parameter: makes a parameter from an array; the framework's own class if the optimizer needs it.
    """

    parameter: Callable[[Values], Any] = BareParameter

    kind: ClassVar[Kind] = "numpy"

    @property
    def abilities(self) -> frozenset[str]:
        return frozenset({"rates", "reload"})

    def start(self, scenario: Scenario, dtype: str) -> Session:
        return _NumpySession(self, scenario, dtype)


@final
class _NumpySession(Session):
    def __init__(self, subject: NumpySubject, scenario: Scenario, dtype: str) -> None:
        self.subject, self.scenario, self.dtype = subject, scenario, dtype
        self.params = [subject.parameter(np.array(v, dtype=dtype)) for v in scenario.initial]
        self.optimizer = subject.make(self.params, **subject.keywords(scenario))

    def step(self, gradients: Gradients | None) -> None:
        for param, g in zip(self.params, gradients or ()):
            param.grad = None if g is None else np.array(g, dtype=self.dtype).view(Gradient)
        self.optimizer.step()

    def values(self) -> list[Values]:
        return [np.array(p.data, dtype=np.float64) for p in self.params]

    def set_rate(self, lr: float) -> None:
        (name,) = self.subject.arguments.names["lr"]
        if name not in dir(self.optimizer):
            raise NotOfferedError(f"the optimizer has no attribute {name!r}")
        setattr(self.optimizer, name, lr)

    def reload(self) -> None:
        self.params = [self.subject.parameter(np.array(p.data)) for p in self.params]
        before, self.optimizer = self.optimizer, self.subject.make(self.params, **self.subject.keywords(self.scenario))
        copy_state(before, self.optimizer)


COUNTERS = ("step_count", "update_counts")
"""Attributes in which a teaching framework's optimizer counts its steps, beside its buffers."""


def get_buffers(optimizer: Any) -> Any:
    """Return the state as the teaching framework's ``get_momentum_state`` does.

    Raises:
        NotOfferedError: it has no such interface.
    """
    if {"get_momentum_state", "set_momentum_state"} - set(dir(optimizer)):
        raise NotOfferedError("it has no get_momentum_state and set_momentum_state")
    return optimizer.get_momentum_state()


def copy_state(source: Any, target: Any) -> None:
    """Copy the state of one optimizer into another: by ``state_dict`` if it has one, else its buffers and counters.

    Raises:
        NotOfferedError: it has neither.
    """
    if {"state_dict", "load_state_dict"} <= set(dir(source)):
        target.load_state_dict(deepcopy(source.state_dict()))
        return
    buffers = deepcopy(get_buffers(source))
    target.set_momentum_state(buffers)
    for name in COUNTERS:
        if name in vars(source):
            setattr(target, name, deepcopy(vars(source)[name]))

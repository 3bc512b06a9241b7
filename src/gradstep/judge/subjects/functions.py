"""Submissions that receive a parameter and its gradient and return the new parameter: functions, and objects."""

from __future__ import annotations

import inspect
from abc import abstractmethod
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeAlias, final

import numpy as np

from gradstep.judge.scenario import Gradients, Scenario, Values
from gradstep.judge.subjects.subject import (
    Arguments,
    Kind,
    NotOfferedError,
    Session,
    Subject,
    SubmissionError,
    array_for,
    collect_defaults,
    match_names,
)
from gradstep.rules import Rule


class _HoldingSession(Session):
    """A session that holds the parameters, and passes them to a submission that holds none.

    Attributes:
        params: the parameters, in the submission's array type.
        settings: the submission's own arguments, for each parameter.
    """

    def __init__(self, subject: FunctionSubject | UpdaterSubject, scenario: Scenario, dtype: str) -> None:
        self._dtype, self._tensors = dtype, subject.tensors
        self._gradients: Gradients = ()
        self._named = subject.arguments.named
        self.params = [self._array(values) for values in scenario.initial]
        groups = [self._named(group) for group in scenario.groups] or [{} for _ in self.params]
        self.settings = [subject.keywords(scenario) | group for group in groups]

    def step(self, gradients: Gradients | None) -> None:
        self._gradients = self._gradients if gradients is None else gradients
        self._step([None if g is None else self._array(g) for g in self._gradients])

    @abstractmethod
    def _step(self, gradients: list[Any]) -> None:
        """Take one step along these arrays, each of its parameter's shape; None for a parameter without a gradient."""

    def values(self) -> list[Values]:
        return [np.array(p, dtype=np.float64) for p in self.params]

    def set_rate(self, lr: float) -> None:
        for settings in self.settings:
            settings |= self._named({"lr": lr})

    def reload(self) -> None:
        raise NotOfferedError("it has no state_dict")

    def _array(self, values: Values) -> Any:
        return array_for(values, self._dtype, tensors=self._tensors)


@final
@dataclass(frozen=True)
class FunctionSubject(Subject):
    """A function, called once per parameter and step, such as ``(p, g, state, step, **settings) -> (p, state)``.

    The first state is ``{}``, the first step is 1.
    """

    tensors: bool = False  # whether it works on torch's tensors
    # its form is ``(w, dw, config) -> (w, config)``, with settings and state in one dictionary
    takes_config: bool = False

    kind: ClassVar[Kind] = "function"

    @property
    def abilities(self) -> frozenset[str]:
        return frozenset({"rates", "groups"})

    def start(self, scenario: Scenario, dtype: str) -> Session:
        return _FunctionSession(self, scenario, dtype)


@final
class _FunctionSession(_HoldingSession):
    def __init__(self, subject: FunctionSubject, scenario: Scenario, dtype: str) -> None:
        super().__init__(subject, scenario, dtype)
        self._call, self._takes_config = subject.make, subject.takes_config
        self._states: list[Any] = self.settings if subject.takes_config else [{} for _ in self.params]
        self._counts = [0] * len(self.params)

    def _step(self, gradients: list[Any]) -> None:
        for i, g in enumerate(gradients):
            if g is None:
                continue
            self._counts[i] += 1
            arguments = self.params[i], g, self._states[i]
            if self._takes_config:
                result, form = self._call(*arguments), "(w, config)"
            else:
                result, form = self._call(*arguments, self._counts[i], **self.settings[i]), "(p, state)"
            pair = isinstance(result, tuple) and len(result) == 2
            if not pair or (self._takes_config and not isinstance(result[1], dict)):
                raise SubmissionError(f"it must return {form}, but returned {type(result).__name__}")
            self.params[i], self._states[i] = result


@final
class _RecordingConfig(dict[str, Any]):
    """A dictionary that records which keys are read, with the default that the reader gives."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: dict[str, Any] = {}

    def setdefault(self, key: str, default: Any = None, /) -> Any:
        self.reads.setdefault(key, default)
        return super().setdefault(key, default)

    def get(self, key: str, default: Any = None, /) -> Any:
        self.reads.setdefault(key, default)
        return super().get(key, default)

    def __contains__(self, key: object) -> bool:
        self.reads.setdefault(str(key), None)
        return super().__contains__(key)


def arguments_of_config(function: Any, rule: type[Rule], tensors: bool) -> Arguments:
    """Return the settings that the function reads from its ``config``, by the rule's names.

    Raises:
        TypeError: it cannot be called with an empty dictionary.
    """
    config = _RecordingConfig()
    one = array_for(np.ones((2, 3)), "float64", tensors=tensors)
    try:
        function(one, one * 1, config)
    except Exception as error:
        raise TypeError(
            f"called as (w, dw, config) with an empty config it raises {type(error).__name__}: {error}"
        ) from error
    own = {**{k: v for k, v in config.items() if np.ndim(v) == 0}, **config.reads}
    names = match_names(rule, own)
    return Arguments(names, defaults=collect_defaults(names, {n: v for n, v in own.items() if v is not None}))


METHODS = ("update", "step", "apply", "apply_gradients", "optimize", "update_params", "__call__")
"""Names of the method that updates parameters, the likeliest first."""

_GRADIENTS = ("g", "dw", "dx", "dtheta")
_MANY = ("params", "parameters", "weights", "thetas", "variables", "grads", "gradients", "gs", "dws")

Container: TypeAlias = Literal["one", "list", "dict"]


@final
@dataclass(frozen=True)
class Method:
    """The method by which an object updates parameters."""

    name: str  # its name
    swapped: bool  # whether the gradient is the first argument
    takes: Container  # one array for each object, or a list or a dictionary of all arrays


def find_method(submission: Any) -> Method | None:
    """Return the method by which a class updates the parameters it receives, or None if it has no such method."""
    if not isinstance(submission, type):
        return None
    for name in METHODS:
        function = inspect.getattr_static(submission, name, None)
        if not inspect.isfunction(function):
            continue
        places = [p for p in inspect.signature(function).parameters.values() if p.default is p.empty][1:]
        if len(places) == 2 and all(p.kind is p.POSITIONAL_OR_KEYWORD for p in places):
            one, other = (p.name.lower() for p in places)
            swapped = _is_gradient(one) and not _is_gradient(other)
            many = (other if swapped else one) in _MANY
            keyed = {"keys", "items"} & set(function.__code__.co_names)
            return Method(name, swapped, ("dict" if keyed else "list") if many else "one")
    return None


def _is_gradient(name: str) -> bool:
    return "grad" in name or name in _GRADIENTS


@final
@dataclass(frozen=True)
class UpdaterSubject(Subject):
    """A class made as ``make(**settings)``; its method returns the new parameter, or None if it works in place."""

    method: Method  # the method that updates parameters
    tensors: bool = False  # whether it works on torch's tensors

    kind: ClassVar[Kind] = "update"

    @property
    def abilities(self) -> frozenset[str]:
        return frozenset({"rates", "groups"}) if self.method.takes == "one" else frozenset({"rates"})

    def start(self, scenario: Scenario, dtype: str) -> Session:
        return _UpdaterSession(self, scenario, dtype)


@final
class _UpdaterSession(_HoldingSession):
    def __init__(self, subject: UpdaterSubject, scenario: Scenario, dtype: str) -> None:
        super().__init__(subject, scenario, dtype)
        self.subject = subject
        count = len(self.params) if subject.method.takes == "one" else 1
        self.objects = [subject.make(**deepcopy(settings)) for settings in self.settings[:count]]

    def _step(self, gradients: list[Any]) -> None:
        if self.subject.method.takes == "one":
            for i, g in enumerate(gradients):
                if g is not None:
                    self.params[i] = self._update(self.objects[i], self.params[i], g)
            return
        if any(g is None for g in gradients):
            raise NotOfferedError("it takes a gradient for every parameter")
        if self.subject.method.takes == "list":
            self.params = list(self._update(self.objects[0], self.params, gradients))
            return
        names = [f"p{i}" for i in range(len(self.params))]
        updated = self._update(self.objects[0], dict(zip(names, self.params)), dict(zip(names, gradients)))
        self.params = [updated[name] for name in names]

    def _update(self, optimizer: Any, params: Any, grads: Any) -> Any:
        """Call the method with two arrays of one shape, or with two lists or dictionaries of them."""
        function = getattr(optimizer, self.subject.method.name)
        returned = function(grads, params) if self.subject.method.swapped else function(params, grads)
        if returned is None:
            return params
        if isinstance(params, (list, dict)) is not isinstance(returned, (list, tuple, dict)):
            raise SubmissionError(
                f"{self.subject.method.name}() must return what it was given, or None where it works in place, "
                f"but returned {type(returned).__name__}"
            )
        return returned

    def set_rate(self, lr: float) -> None:
        (name,) = self.subject.arguments.names["lr"]
        for optimizer in self.objects:
            if name not in dir(optimizer):
                name = next((n for n in ("lr", "learning_rate", "eta", "alpha") if n in dir(optimizer)), "")
            if not name:
                raise NotOfferedError("the optimizer has no attribute for its learning rate")
            setattr(optimizer, name, lr)

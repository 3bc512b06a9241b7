"""Objects that are given a parameter and its gradient: ``update(w, grad)`` and ``update(params, grads)``."""

from __future__ import annotations

import inspect
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, final

from gradstep.judge.scenario import Scenario
from gradstep.judge.subjects.base import (
    HoldingSession,
    Kind,
    NotOfferedError,
    Session,
    Subject,
    SubmissionError,
)

METHODS = ("update", "step", "apply", "apply_gradients", "optimize", "update_params", "__call__")
"""What the method is called, the likeliest first."""

_GRADIENTS = ("g", "dw", "dx", "dtheta")
_MANY = ("params", "parameters", "weights", "thetas", "variables", "grads", "gradients", "gs", "dws")

Holds: TypeAlias = Literal["one", "list", "dict"]


@final
@dataclass(frozen=True)
class Method:
    """How the object is called.

    Attributes:
        name: its method.
        swapped: the gradient comes first.
        holds: one array for each object, or a list or a dictionary of all.
    """

    name: str
    swapped: bool
    holds: Holds


def method_of(submission: Any) -> Method | None:
    """The method by which a class updates what it is given, or None if it has no such method."""
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
    """Made as ``make(**settings)``; what its method returns is the new parameter, or None where it works in place.

    Attributes:
        method: how it is called.
        tensors: it works on torch's tensors.
    """

    method: Method
    tensors: bool = False

    @property
    def kind(self) -> Kind:
        return "update"

    @property
    def abilities(self) -> frozenset[str]:
        return frozenset({"rates", "groups"}) if self.method.holds == "one" else frozenset({"rates"})

    def start(self, scenario: Scenario, dtype: str) -> Session:
        return _UpdaterSession(self, scenario, dtype, tensors=self.tensors)


@final
class _UpdaterSession(HoldingSession):
    def __init__(self, subject: UpdaterSubject, scenario: Scenario, dtype: str, *, tensors: bool) -> None:
        super().__init__(subject, scenario, dtype, tensors=tensors)
        self.subject = subject
        count = len(self.params) if subject.method.holds == "one" else 1
        self.objects = [subject.make(**deepcopy(settings)) for settings in self.settings[:count]]

    def _step(self, gradients: list[Any]) -> None:
        if self.subject.method.holds == "one":
            for i, g in enumerate(gradients):
                if g is not None:
                    self.params[i] = self._called(self.objects[i], self.params[i], g)
            return
        if any(g is None for g in gradients):
            raise NotOfferedError("it takes a gradient for every parameter")
        if self.subject.method.holds == "list":
            self.params = list(self._called(self.objects[0], self.params, gradients))
            return
        names = [f"p{i}" for i in range(len(self.params))]
        held = self._called(self.objects[0], dict(zip(names, self.params)), dict(zip(names, gradients)))
        self.params = [held[name] for name in names]

    def _called(self, made: Any, params: Any, grads: Any) -> Any:
        function = getattr(made, self.subject.method.name)
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
        for made in self.objects:
            if name not in dir(made):
                name = next((n for n in ("lr", "learning_rate", "eta", "alpha") if n in dir(made)), "")
            if not name:
                raise NotOfferedError("the optimizer has no attribute for its learning rate")
            setattr(made, name, lr)

    def reload(self) -> None:
        raise NotOfferedError("it has no state_dict")

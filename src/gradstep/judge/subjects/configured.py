"""Functions whose settings and state are one dictionary: ``(w, dw, config) -> (w, config)``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import numpy as np

from gradstep.judge.scenario import Scenario
from gradstep.judge.subjects.arguments import ALIASES, Arguments
from gradstep.judge.subjects.base import (
    HoldingSession,
    Kind,
    Session,
    Subject,
    SubmissionError,
    array_for,
)
from gradstep.rules import Rule
from gradstep.rules.settings import shared_settings_of


@final
class _Recording(dict[str, Any]):
    """A dictionary that knows which keys were asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: dict[str, Any] = {}

    def setdefault(self, key: str, default: Any = None, /) -> Any:
        self.asked.setdefault(key, default)
        return super().setdefault(key, default)

    def get(self, key: str, default: Any = None, /) -> Any:
        self.asked.setdefault(key, default)
        return super().get(key, default)

    def __contains__(self, key: object) -> bool:
        self.asked.setdefault(str(key), None)
        return super().__contains__(key)


def arguments_of_config(function: Any, rule: type[Rule], tensors: bool) -> Arguments:
    """The settings that such a function looks for in its dictionary, by the rule's names.

    Raises:
        TypeError: it cannot be called with an empty dictionary.
    """
    config = _Recording()
    one = array_for(np.ones((2, 3)), "float64", tensors=tensors)
    try:
        function(one, one * 1, config)
    except Exception as error:
        raise TypeError(
            f"called as (w, dw, config) with an empty config it raises {type(error).__name__}: {error}"
        ) from error
    own = {**{k: v for k, v in config.items() if np.ndim(v) == 0}, **config.asked}
    names: dict[str, tuple[str, ...]] = {}
    fields = {f.name for f in shared_settings_of(rule)}
    for setting in [f.name for f in shared_settings_of(rule)]:
        free = own.keys() - {n for used in names.values() for n in used}
        aliases = (alias for alias in ALIASES.get(setting, ()) if fields.isdisjoint(alias))
        found = next((a for a in ((setting,), *aliases) if free.issuperset(a)), None)
        if found is not None:
            names[setting] = found
    defaults = []
    for setting, used in names.items():
        values = tuple(own[n] for n in used)
        if all(v is not None for v in values):
            defaults.append((setting, values if len(used) == 2 else values[0]))
    return Arguments(names, defaults=tuple(defaults))


@final
@dataclass(frozen=True)
class ConfiguredSubject(Subject):
    """Called once per parameter and step, with a dictionary of settings that comes back with the state in it.

    Attributes:
        tensors: it works on torch's tensors.
    """

    tensors: bool = False

    @property
    def kind(self) -> Kind:
        return "function"

    @property
    def abilities(self) -> frozenset[str]:
        return frozenset({"rates", "groups"})

    def start(self, scenario: Scenario, dtype: str) -> Session:
        return _ConfiguredSession(self, scenario, dtype, tensors=self.tensors)


@final
class _ConfiguredSession(HoldingSession):
    def __init__(self, subject: ConfiguredSubject, scenario: Scenario, dtype: str, *, tensors: bool) -> None:
        super().__init__(subject, scenario, dtype, tensors=tensors)
        self._call = subject.make

    def _step(self, gradients: list[Any]) -> None:
        for i, g in enumerate(gradients):
            if g is None:
                continue
            result = self._call(self.params[i], g, self.settings[i])
            if not isinstance(result, tuple) or len(result) != 2 or not isinstance(result[1], dict):
                raise SubmissionError(f"it must return (w, config), but returned {type(result).__name__}")
            self.params[i], self.settings[i] = result

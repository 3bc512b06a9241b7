"""A submission's arguments in the rule's terms, whatever it calls them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, final

from gradstep.rules import Rule
from gradstep.rules.settings import shared_settings_of

ALIASES: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "lr": (("learning_rate",), ("step_size",), ("eta",), ("lrate",), ("alpha",)),
    "betas": (("beta1", "beta2"), ("beta_1", "beta_2"), ("b1", "b2"), ("rho1", "rho2")),
    "eps": (("epsilon",), ("eps1", "eps2"), ("e",)),
    "weight_decay": (("wd",), ("decay",), ("weight_decay_rate",)),
    "momentum": (("mu",), ("beta",)),
    "alpha": (("rho",), ("beta",), ("decay_rate",), ("beta2",)),
    "rho": (("alpha",), ("decay_rate",)),
    "d": (("clip_threshold",), ("clipping_threshold",)),
    "beta2_decay": (("decay_rate",),),
}
"""Other names for a setting; a pair stands for its two numbers given apart."""


@final
@dataclass(frozen=True)
class Arguments:
    """Which settings can be given, and under which names.

    Attributes:
        names: the submission's own name (or two, for a pair given apart) by the rule's.
        unknown: required arguments that no rule setting answers to.
        open: settings of ``names`` that it may take by its ``**keywords``, or refuse.
        defaults: the values it has of its own, by the rule's names.
    """

    names: Mapping[str, tuple[str, ...]]
    unknown: tuple[str, ...] = ()
    open: frozenset[str] = frozenset()
    defaults: tuple[tuple[str, Any], ...] = ()

    @property
    def offered(self) -> frozenset[str]:
        """The rule's settings that it takes."""
        return frozenset(self.names)

    def without(self, settings: frozenset[str]) -> Arguments:
        """The same but for some settings, which it turned out not to take."""
        names = {name: used for name, used in self.names.items() if name not in settings}
        return replace(self, names=names, open=self.open - settings)

    def named(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Settings under the submission's own names; those that it does not take are left out."""
        given: dict[str, Any] = {}
        for setting, value in settings.items():
            own = self.names.get(setting, ())
            given |= dict(zip(own, value)) if len(own) == 2 else dict.fromkeys(own, value)
        return given


def arguments_of(make: Callable[..., Any], rule: type[Rule], *, skip: int, extra: Mapping[str, Any]) -> Arguments:
    """The arguments of a class, factory or function after the first ``skip``, which are not settings."""
    fields = {f.name: f.default for f in shared_settings_of(rule)}
    try:
        parameters = _parameters(make)
    except (TypeError, ValueError):
        return Arguments({name: (name,) for name in fields})
    places = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)][skip:]
    own = {p.name: p for p in places}
    names: dict[str, tuple[str, ...]] = {}
    for setting in fields:
        free = own.keys() - {n for used in names.values() for n in used}
        aliases = (alias for alias in ALIASES.get(setting, ()) if fields.keys().isdisjoint(alias))
        named = [a for a in ((setting,), *aliases) if free.issuperset(a)]
        # What is a flag here and a number there is another setting of the same name.
        found = next((a for a in named if all(_alike(own[n].default, fields[setting]) for n in a)), None)
        if found is not None:
            names[setting] = found
    unseen: frozenset[str] = frozenset()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        unseen = frozenset(fields) - names.keys()
        names = {name: names.get(name, (name,)) for name in fields}
    answered = {n for used in names.values() for n in used} | extra.keys()
    unknown = tuple(p.name for p in places if p.default is p.empty and p.name not in answered)
    defaults = []
    for setting, used in names.items():
        values = [own[n].default for n in used if n in own]
        if values and not any(v is inspect.Parameter.empty for v in values):
            defaults.append((setting, tuple(values) if len(values) == 2 else values[0]))
    return Arguments(names, unknown, unseen, tuple(defaults))


def _parameters(make: Callable[..., Any]) -> list[inspect.Parameter]:
    """The parameters of a callable; of a class whose constructor passes its ``**keywords`` on, its base's too."""
    parameters = list(inspect.signature(make).parameters.values())
    if not isinstance(make, type) or not any(p.kind is p.VAR_KEYWORD for p in parameters):
        return parameters
    known = {p.name for p in parameters}
    for base in make.__mro__[1:]:
        own = vars(base).get("__init__")
        if not inspect.isfunction(own) or base.__module__.partition(".")[0] == "torch":
            continue
        further = list(inspect.signature(own).parameters.values())[1:]
        parameters += [p.replace(kind=p.KEYWORD_ONLY) for p in further if p.name not in known and _named(p)]
        known |= {p.name for p in further}
        if not any(p.kind is p.VAR_KEYWORD for p in further):
            return [p for p in parameters if p.kind is not p.VAR_KEYWORD]
    return parameters


def _named(parameter: inspect.Parameter) -> bool:
    return parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)


def _alike(own: Any, default: Any) -> bool:
    return own is inspect.Parameter.empty or isinstance(own, bool) == isinstance(default, bool)

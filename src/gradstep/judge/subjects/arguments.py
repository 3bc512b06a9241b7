"""A submission's arguments in the rule's terms, whatever it calls them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, final

from gradstep.rules import Rule, settings_of

# Other names for a setting; a pair stands for its two numbers given apart.
_ALIASES: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "lr": (("learning_rate",), ("step_size",), ("eta",)),
    "betas": (("beta1", "beta2"), ("beta_1", "beta_2"), ("b1", "b2")),
    "eps": (("epsilon",), ("eps1", "eps2")),
    "weight_decay": (("wd",), ("decay",), ("weight_decay_rate",)),
    "momentum": (("mu",), ("beta",)),
    "alpha": (("rho",), ("beta",), ("decay_rate",), ("beta2",)),
    "rho": (("alpha",), ("decay_rate",)),
    "d": (("clip_threshold",), ("clipping_threshold",)),
    "beta2_decay": (("decay_rate",),),
}


@final
@dataclass(frozen=True)
class Arguments:
    """Which settings can be given, and under which names.

    Attributes:
        names: the submission's own name (or two, for a pair given apart) by the rule's.
        unknown: required arguments that no rule setting answers to.
        defaults: the values it has of its own, by the rule's names.
    """

    names: Mapping[str, tuple[str, ...]]
    unknown: tuple[str, ...] = ()
    defaults: tuple[tuple[str, Any], ...] = ()

    @property
    def offered(self) -> frozenset[str]:
        """The rule's settings that it takes."""
        return frozenset(self.names)

    def named(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Settings under the submission's own names; those that it does not take are left out."""
        given: dict[str, Any] = {}
        for setting, value in settings.items():
            own = self.names.get(setting, ())
            given |= dict(zip(own, value)) if len(own) == 2 else dict.fromkeys(own, value)
        return given


def arguments_of(make: Callable[..., Any], rule: type[Rule], *, skip: int, extra: Mapping[str, Any]) -> Arguments:
    """The arguments of a class, factory or function after the first ``skip``, which are not settings."""
    fields = {f.name: f.default for f in settings_of(rule)}
    try:
        parameters = list(inspect.signature(make).parameters.values())
    except (TypeError, ValueError):
        return Arguments({name: (name,) for name in fields})
    places = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)][skip:]
    own = {p.name: p for p in places}
    names: dict[str, tuple[str, ...]] = {}
    for setting in fields:
        free = own.keys() - {n for used in names.values() for n in used}
        aliases = (alias for alias in _ALIASES.get(setting, ()) if fields.keys().isdisjoint(alias))
        named = [a for a in ((setting,), *aliases) if free.issuperset(a)]
        # What is a flag here and a number there is another setting of the same name.
        found = next((a for a in named if all(_alike(own[n].default, fields[setting]) for n in a)), None)
        if found is not None:
            names[setting] = found
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        names = {name: names.get(name, (name,)) for name in fields}
    answered = {n for used in names.values() for n in used} | extra.keys()
    unknown = tuple(p.name for p in places if p.default is p.empty and p.name not in answered)
    defaults = []
    for setting, used in names.items():
        values = [own[n].default for n in used if n in own]
        if values and not any(v is inspect.Parameter.empty for v in values):
            defaults.append((setting, tuple(values) if len(values) == 2 else values[0]))
    return Arguments(names, unknown, tuple(defaults))


def _alike(own: Any, default: Any) -> bool:
    return own is inspect.Parameter.empty or isinstance(own, bool) == isinstance(default, bool)

"""Check the settings of a rule, with the teaching framework's error messages."""

import inspect
from collections.abc import Mapping
from dataclasses import Field, replace
from functools import cache
from typing import Any

from gradstep.rules import Rule, settings_of
from gradstep.warn import warn_user

NUMPY_SETTINGS = """
Other Parameters:
    params: objects with ``data`` (an array of float32 or float64, changed in place) and ``grad``.
    parameters: another name for ``params``.
    engine: ``"auto"``, ``"fused"`` or ``"reference"``.
"""
"""The part of the docstring that the classes made from rules share."""

_NONNEGATIVE = ("lr", "momentum", "weight_decay", "eps")


@cache
def signature_of(rule: type[Rule]) -> inspect.Signature:
    """Return the arguments of an optimizer of this rule: ``params``, the rule's settings, ``parameters``, ``engine``.

    >>> from gradstep.rules import Lion
    >>> list(signature_of(Lion).parameters)
    ['params', 'lr', 'betas', 'weight_decay', 'maximize', 'parameters', 'engine']
    """
    position, keyword = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY
    settings = [
        inspect.Parameter(s.name, keyword if s.kw_only else position, default=s.default, annotation=s.type)
        for s in settings_of(rule)
    ]
    own = [
        inspect.Parameter("parameters", keyword, default=None),
        inspect.Parameter("engine", keyword, default="auto", annotation=str),
    ]
    return inspect.Signature([inspect.Parameter("params", position), *settings, *own])


def build_rule(rule: type[Rule], values: Mapping[str, Any]) -> Rule:
    """Return the rule with these settings, and defaults for the others.

    Raises:
        ValueError: a setting is out of its bounds; the message is the teaching framework's if that has the setting.
        TypeError: a setting has the wrong type.

    >>> from gradstep.rules import Adam
    >>> build_rule(Adam, {"lr": float("nan")})
    Traceback (most recent call last):
    ValueError: lr must be finite and nonnegative, but is nan
    """
    _check(rule, values)
    return rule(**values)


def replace_setting(rule: Rule, name: str, value: Any) -> Rule:
    """Return the rule with one setting replaced.

    Raises:
        ValueError, TypeError: the new value, as in :func:`build_rule`.
    """
    _check(type(rule), {name: value})
    return replace(rule, **{name: value})


def _check(rule: type[Rule], values: Mapping[str, Any]) -> None:
    for setting in settings_of(rule):
        if setting.name not in values:
            continue
        value = values[setting.name]
        try:
            setting.metadata["check"](setting.name, value)
        except ValueError as error:
            raise ValueError(_message(setting, value) or f"{setting.name}: {error}") from error
        except TypeError as error:
            # The teaching framework calls a pair of another length a wrong value, not a wrong type.
            if setting.name == "betas" and isinstance(value, (tuple, list)) and len(value) != _count_betas(setting):
                raise ValueError(_message(setting, value)) from error
            raise
        if setting.name == "momentum" and value >= 1:
            warn_user(
                f"momentum={value!r} never lets an old gradient fade, so steps grow without bound: give less than 1"
            )


def _count_betas(setting: Field[Any]) -> int:
    default: Any = setting.default
    return len(default)


def _message(setting: Field[Any], value: Any) -> str:
    """Return the teaching framework's message for a value out of its bounds; empty if it lacks the setting."""
    if setting.name == "betas":
        size = _count_betas(setting)
        count = {2: "two", 3: "three"}.get(size, size)
        return f"betas must contain {count} finite values in [0, 1), but is {value!r}"
    if setting.name in _NONNEGATIVE and isinstance(setting.default, float):
        return f"{setting.name} must be finite and nonnegative, but is {value!r}"
    return ""

"""The settings of a rule, which is a dataclass: each function here returns a field with its default and its check.

A setting that is out of bounds raises ValueError, in torch's wording; one of the wrong type raises TypeError. Numbers
may be given as int, float, NumPy number or 1-element tensor, must be finite, and become a Python float.

>>> from dataclasses import dataclass
>>> from gradstep import Rule
>>> @dataclass(frozen=True)
... class Descent(Rule):
...     lr: float = learning_rate(1e-2)
...
...     def coefficients(self, step, **scalars):
...         return {"lr": self.lr}
...
...     @staticmethod
...     def update(p, g, s, c):
...         return p - c.lr * g
>>> Descent().lr
0.01
>>> Descent(lr=-1)
Traceback (most recent call last):
ValueError: Invalid learning rate: -1 (must be at least 0)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import Field, dataclass, field, fields
from typing import Any

Check = Callable[[str, Any], Any]
"""Takes a setting's name and value; returns the value as the rule uses it, or raises."""


@dataclass(frozen=True)
class Settings:
    """A dataclass whose fields are settings; an instance is one checked set of them."""

    def __post_init__(self) -> None:
        """Check every setting, and store it as its check returns it (a tensor as a float, for example)."""
        for setting in fields(self):
            value = setting.metadata["check"](setting.name, getattr(self, setting.name))
            object.__setattr__(self, setting.name, value)


def number(name: str, value: Any, label: str = "") -> float:
    """Return one finite number as a Python float, from an int, a float, a NumPy number or a 1-element tensor."""
    if isinstance(value, (str, bytes, bool)) or value is None:
        raise TypeError(f"{name} must be a number, but is {value!r}")
    try:
        result = float(value)
    except (TypeError, ValueError, RuntimeError) as error:
        kind = ValueError if len(getattr(value, "shape", ())) else TypeError
        raise kind(f"{name} must be one number or a 1-element tensor, but is {value!r}") from error
    if not math.isfinite(result):
        raise ValueError(f"Invalid {label or name + ' value'}: {value} (must be finite)")
    return result


def _bounded(label: str, holds: Callable[[float], bool], bounds: str) -> Check:
    def check(name: str, value: Any) -> float:
        result = number(name, value, label)
        if not holds(result):
            raise ValueError(f"Invalid {label or name + ' value'}: {value} (must be {bounds})")
        return result

    return check


def _setting(default: Any, check: Check, *, kw_only: bool = False) -> Any:
    return field(default=default, kw_only=kw_only, metadata={"check": check})


def learning_rate(default: float) -> Any:
    """Return the field of a learning rate, at least 0."""
    return _setting(default, _bounded("learning rate", lambda x: x >= 0, "at least 0"))


def epsilon(default: float) -> Any:
    """Return the field of a small number that is added to a denominator, at least 0."""
    return _setting(default, _bounded("epsilon value", lambda x: x >= 0, "at least 0"))


def real(default: float) -> Any:
    """Return the field of any finite number."""
    return _setting(default, number)


def nonnegative(default: float, *, kw_only: bool = False) -> Any:
    """Return the field of a number of at least 0; with ``kw_only``, it is not taken by position."""
    return _setting(default, _bounded("", lambda x: x >= 0, "at least 0"), kw_only=kw_only)


def nonpositive(default: float) -> Any:
    """Return the field of a number of at most 0."""
    return _setting(default, _bounded("", lambda x: x <= 0, "at most 0"))


def at_least_one(default: float) -> Any:
    """Return the field of a number of at least 1."""
    return _setting(default, _bounded("", lambda x: x >= 1, "at least 1"))


def fraction(default: float) -> Any:
    """Return the field of a number in [0, 1], both ends allowed."""
    return _setting(default, _bounded("", lambda x: 0 <= x <= 1, "between 0 and 1"))


def open_fraction(default: float) -> Any:
    """Return the field of a number in (0, 1), neither end allowed."""
    return _setting(default, _bounded("", lambda x: 0 < x < 1, "between 0 and 1, neither included"))


def betas(*defaults: float, first_above_0: bool = False) -> Any:
    """Return the field of averaging coefficients, as many as there are defaults, each in [0, 1).

    With ``first_above_0``, the first is in (0, 1).
    """

    def check(name: str, value: Any) -> tuple[float, ...]:
        numbers = _numbers(name, value, len(defaults))
        for index, beta in enumerate(numbers):
            label = f"beta parameter at index {index}"
            if not 0 <= number(f"{name}[{index}]", beta, label) < 1:
                raise ValueError(f"Invalid {label}: {beta} (must be in [0, 1))")
        if first_above_0 and float(numbers[0]) == 0:
            raise ValueError("Invalid beta parameter at index 0: 0 (must be in (0, 1))")
        return tuple(map(float, numbers))

    return _setting(defaults, check)


def nonnegative_pair(first: float | None, second: float) -> Any:
    """Return the field of two numbers of at least 0; the first may be ``None`` if its default is."""

    def check(name: str, value: Any) -> tuple[float | None, float]:
        pair = _pair(name, value)
        missing = first is None and pair[0] is None
        numbers = [0.0 if missing and i == 0 else number(f"{name}[{i}]", x) for i, x in enumerate(pair)]
        for index, x in enumerate(numbers):
            if x < 0:
                raise ValueError(f"Invalid {name} value at index {index}: {x} (must be at least 0)")
        return None if missing else numbers[0], numbers[1]

    return _setting((first, second), check)


def shrink_and_grow(first: float, second: float) -> Any:
    """Return the field of two factors, the first between 0 and 1, the second greater than 1."""

    def check(name: str, value: Any) -> tuple[float, float]:
        shrink, grow = (number(f"{name}[{i}]", x) for i, x in enumerate(_pair(name, value)))
        if not 0 < shrink < 1 < grow:
            raise ValueError(f"Invalid eta values: {shrink}, {grow} (must be between 0 and 1, and greater than 1)")
        return shrink, grow

    return _setting((first, second), check)


def flag(default: bool = False, *, kw_only: bool = False) -> Any:
    """Return the field of a setting that is True or False; with ``kw_only``, it is not taken by position."""

    def check(name: str, value: Any) -> bool:
        if value not in (True, False):
            raise TypeError(f"{name} must be True or False, but is {value!r}")
        return bool(value)

    return _setting(default, check, kw_only=kw_only)


def count(default: int, most: int) -> Any:
    """Return the field of a whole number from 1 to ``most``."""

    def check(name: str, value: Any) -> int:
        result = number(name, value)
        if not (result == int(result) and 1 <= result <= most):
            raise ValueError(f"Invalid {name} value: {value} (must be a whole number from 1 to {most})")
        return int(result)

    return _setting(default, check)


def duration() -> Any:
    """Return the field of a number of updates, at least 1; the default is None."""

    def check(name: str, value: Any) -> int | None:
        if value is None:
            return None
        result = number(name, value)
        if not (result == int(result) and result >= 1):
            raise ValueError(f"Invalid {name} value: {value} (must be None, or a whole number from 1)")
        return int(result)

    return _setting(None, check)


def choice(*allowed: str | None) -> Any:
    """Return the field of one of a few words; the first is the default."""

    def check(name: str, value: Any) -> str | None:
        if not (value is None or isinstance(value, str)) or value not in allowed:
            raise ValueError(f"Invalid {name}: {value!r} (choose {', '.join(map(repr, allowed))})")
        return value

    return _setting(allowed[0], check)


def quintic(default: tuple[float, float, float]) -> Any:
    """Return the field of the three coefficients of a Newton–Schulz iteration, or the word ``"polar_express"``."""

    def check(name: str, value: Any) -> tuple[float, ...] | str:
        if isinstance(value, str) and value == "polar_express":
            return value
        if not isinstance(value, (tuple, list)) or len(value) != 3:
            raise ValueError(f"Invalid {name}: {value!r} (must be three numbers, or 'polar_express')")
        return tuple(number(f"{name}[{i}]", x) for i, x in enumerate(value))

    return _setting(default, check)


def matrices() -> Any:
    """Return the field of how a parameter is one or several matrices: None, ``"flatten"``, ``"stack"`` or a count."""

    def check(name: str, value: Any) -> str | int | None:
        if value is None or value in ("flatten", "stack") or (type(value) is int and value >= 1):
            return value  # type: ignore[no-any-return]
        raise ValueError(f"Invalid {name}: {value!r} (choose None, 'flatten', 'stack', or a number of matrices)")

    return _setting(None, check, kw_only=True)


def _pair(name: str, value: Any) -> tuple[Any, Any]:
    first, second = _numbers(name, value, 2)
    return first, second


def _numbers(name: str, value: Any, size: int) -> tuple[Any, ...]:
    try:
        numbers = tuple(value)
        if len(numbers) != size:
            raise ValueError(f"{len(numbers)} numbers")
    except (TypeError, ValueError) as error:
        kind = "a pair of numbers" if size == 2 else f"{size} numbers"
        raise TypeError(f"{name} must be {kind}, but is {value!r}") from error
    return numbers


def settings_of(rule: type) -> tuple[Field[Any], ...]:
    """Return the hyperparameters of a ``rule`` class, in the order of its constructor (keyword-only ones last).

    >>> from gradstep.rules import Lion
    >>> [(setting.name, setting.default) for setting in settings_of(Lion)]
    [('lr', 0.0001), ('betas', (0.9, 0.99)), ('weight_decay', 0.0), ('maximize', False)]
    """
    return tuple(sorted(fields(rule), key=lambda f: f.kw_only is True))


def shared_settings_of(rule: type[Any]) -> tuple[Field[Any], ...]:
    """Return the hyperparameters that a rule shares with torch's class of the same name."""
    return tuple(setting for setting in settings_of(rule) if setting.name not in rule.beyond_torch)

"""What a constructor was given, and the rule that a group's settings make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from typing import Any

from torch import Tensor

from gradstep.optimizers.choice import TORCH_EXECUTION
from gradstep.rules import Rule, settings_of

OWN: Mapping[str, Any] = {
    "engine": "auto",
    "state": "float32",
    "rounding": "nearest",
    "seed": None,
    "paged": False,
    "page_budget": None,
}
"""The settings of every optimizer that are not mathematics, with their defaults:

- ``engine``: who executes: ``"auto"``, ``"fused"``, ``"eager"``, ``"compiled"`` or ``"reference"``;
- ``state``: how slots are stored: ``"float32"``, ``"bfloat16"`` or ``"8bit"``;
- ``rounding``: of bfloat16 and float16 parameters: ``"nearest"``, ``"stochastic"``, ``"kahan"`` or ``"master"``;
- ``seed``: of the noise of rounding at random; None stands for torch's own seed, which is not advanced;
- ``paged``: True or a folder (or :class:`Pages`) keeps state in memory-mapped files; True, for parameters on a GPU, in
  the host's memory;
- ``page_budget``: bytes of paged state that may be in memory, or on the GPU (``"512MB"``).
"""


def sorted_out(
    kind: str, rule: type[Rule], positional: Sequence[Any], named: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The rule's settings that were given, and the optimizer's own.

    Args:
        kind: the name of the optimizer class.
        rule: its rule.
        positional, named: the arguments after ``params``.

    Raises:
        TypeError: a setting that there is not, or that was given twice.
    """
    settings = settings_of(rule)
    places = [s.name for s in settings if not s.kw_only]
    if len(positional) > len(places):
        raise TypeError(f"{kind} takes at most {len(places)} settings by position, got {len(positional)}")
    given = dict(zip(places, positional, strict=False))
    names = {s.name for s in settings}
    for name, value in named.items():
        if name in OWN:
            continue
        if name in given:
            raise TypeError(f"{kind} got multiple values for argument {name!r}")
        if name in TORCH_EXECUTION:
            raise TypeError(
                f"{name}= tells torch how to execute; gradstep chooses by engine= "
                "('auto', 'fused', 'eager', 'compiled', 'reference'), and 'auto' is the fastest that fits"
            )
        if name not in names:
            raise TypeError(
                f"{kind} has no setting {name!r} (it has {', '.join(s.name for s in settings)}; {', '.join(OWN)})"
            )
        given[name] = value
    return given, {name: value for name, value in named.items() if name in OWN}


def rule_of(rule: type[Rule], group: Mapping[str, Any]) -> Rule:
    """The rule with a group's settings, checked.

    Raises:
        ValueError, TypeError: a setting out of its bounds, or of the wrong kind, or not the one that makes the rule.
    """
    check_fixed(rule, group)
    values = tuple([group[name] for name in _setting_names(rule)])
    kinds = tuple(map(type, values))
    if _KEPT.issuperset(kinds) and not _holds_tensor(values):
        return _checked(rule, values, kinds)
    return _checked.__wrapped__(rule, values, kinds)


def check_fixed(rule: type[Rule], group: Mapping[str, Any]) -> None:
    """Refuse a group with a setting that would make another optimizer of this one, as ``Rule.fixed`` says.

    Raises:
        ValueError: it has one.

    >>> from gradstep.rules import AdamW
    >>> check_fixed(AdamW, {"decoupled_weight_decay": False})
    Traceback (most recent call last):
    ValueError: decoupled_weight_decay=False is not AdamW, which has decoupled_weight_decay=True
    """
    for name, value in rule.fixed.items():
        if name in group and group[name] != value:
            raise ValueError(f"{name}={group[name]!r} is not {rule.__name__}, which has {name}={value!r}")


@cache
def _setting_names(rule: type[Rule]) -> tuple[str, ...]:
    return tuple(s.name for s in settings_of(rule))


# A tensor may change in place, and a list or a wrong kind of setting has no hash: these are looked at every time.
_KEPT = {float, int, bool, tuple, type(None)}


@lru_cache(maxsize=1024)
def _checked(rule: type[Rule], values: tuple[Any, ...], kinds: tuple[type, ...]) -> Rule:
    del kinds  # 1 and True are equal, but only one of them is a learning rate
    return rule(**dict(zip(_setting_names(rule), values, strict=True)))


def _holds_tensor(values: tuple[Any, ...]) -> bool:
    return any(isinstance(x, Tensor) for v in values if type(v) is tuple for x in v)

"""The rule that a parameter group names under ``"rule"``, and the settings of such a group."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import MISSING
from typing import Any, Protocol, runtime_checkable

from gradstep.optimizers.arguments import OWN, TORCH_EXECUTION, GroupRules, default_settings
from gradstep.optimizers.wrapped import ZeroRanks
from gradstep.rules import RULES, Rule, settings_of
from gradstep.spelling import suggest
from gradstep.variants import parse_name


def check_rule_class(rule: Any, subject: str) -> None:
    """Refuse what is no finished class of a rule; ``subject`` begins the sentence that says what must be one.

    Raises:
        TypeError: it is no such class, or lacks a method.
    """
    if not (inspect.isclass(rule) and issubclass(rule, Rule)):
        raise TypeError(f"{subject} a subclass of gradstep.Rule, not {rule!r}")
    if inspect.isabstract(rule):
        missing = ", ".join(sorted(rule.__abstractmethods__))
        raise TypeError(f"{rule.__name__} is not finished: write {missing}")
    if "__dataclass_fields__" not in vars(rule):
        raise TypeError(f"{rule.__name__} needs @dataclass(frozen=True) above it, so that its settings are found")


def read_named_rule(
    rules: GroupRules, defaults: Mapping[str, Any], given: Mapping[str, Any], zero: ZeroRanks | None
) -> tuple[dict[str, Any], type[Rule]]:
    """Return a new group with every setting of the rule that it names, and this rule.

    A group of the optimizer's own rule is returned without ``"rule"`` and without further settings.

    Args:
        rules, defaults: the optimizer's.
        given: the group. Its ``"rule"`` is a name as :func:`gradstep.create` knows them, or the class of a rule or of a
            gradstep optimizer.
        zero: the ranks of the ``ZeroRedundancyOptimizer`` around this optimizer; None without it.

    Raises:
        TypeError: no rule, or a setting that the rule does not have.
        ValueError: a name of no rule, another rule of this name, or no learning rate.
    """
    rule, preset = _find_rule(rules, given["rule"])
    group = {**preset, **given, "rule": rule.__name__}
    if rules.by_name.get(rule.__name__, rule) is not rule:
        raise ValueError(f"this optimizer has another rule called {rule.__name__}: rename one of the classes")
    if rule.averages and not rules.own.averages:
        raise ValueError(
            f"{rule.__name__} averages the weights, and {rules.own.__name__} has no eval() and train(): make the "
            f"optimizer of {rule.__name__}, and give the other groups 'rule': {rules.own.__name__!r}"
        )
    if zero is not None:
        _check_filled(rule, given, zero.defaults)
    _check_settings(rules, rule, group, frozenset() if zero is None else frozenset(zero.defaults))
    if rule is rules.own:
        del group["rule"]
        return group, rule
    # Whether to climb belongs to the loss, not to the rule; where torch lacks the setting, it is no default of False.
    return {**default_settings(rule), "maximize": defaults.get("maximize", False), **group}, rule


@runtime_checkable
class OptimizerClass(Protocol):
    """A class that :func:`gradstep.optimizer` makes."""

    preset: Mapping[str, Any]

    def rule(self) -> type[Rule]:
        """Return its rule."""


def _find_rule(rules: GroupRules, value: Any) -> tuple[type[Rule], Mapping[str, Any]]:
    """Return the rule that a name or a class stands for, and the settings of a group that it implies."""
    if isinstance(value, OptimizerClass):
        return value.rule(), value.preset
    if not isinstance(value, str):
        check_rule_class(value, "a group's 'rule' must be a name such as 'Lion', a gradstep optimizer, or")
        return value, {}
    if value in rules.by_name:
        return rules.by_name[value], {}
    try:
        name, state, paged = parse_name(value)
    except ValueError as error:
        raise ValueError(f"{error} (a rule of your own is given as its class, not by its name)") from None
    preset = {"state": state, "paged": paged}
    return RULES[name], {key: setting for key, setting in preset.items() if setting != OWN[key]}


def _check_settings(rules: GroupRules, rule: type[Rule], group: Mapping[str, Any], filled: frozenset[str]) -> None:
    """Refuse settings of a group that its rule does not have, and a group without the settings that it needs.

    Raises:
        TypeError: a setting of another rule, or of the whole optimizer, or misspelled.
        ValueError: a setting is missing.
    """
    own = {setting.name: setting for setting in settings_of(rule)}
    others = {setting.name for kind in (*RULES.values(), rules.own) for setting in settings_of(kind)}
    for key in group.keys() - own.keys() - rule.fixed.keys() - TORCH_EXECUTION.keys() - filled - {"state"}:
        if key in OWN:
            raise TypeError(f"{key} is a setting of the whole optimizer, not of a group: give it beside the groups")
        near = suggest(key, own, most=1, similarity=0.85)
        if near or key in others:
            raise TypeError(f"{rule.__name__} has no setting {key!r} (it has {', '.join(own)}).{near}")
    if rule is rules.own:
        return  # the optimizer has the settings
    for name, setting in own.items():
        if name not in group and (name == "lr" or setting.default is MISSING):
            usual = "" if setting.default is MISSING else f" ({rule.__name__}'s default is {setting.default})"
            raise ValueError(
                f"a group with rule={rule.__name__!r} needs its own {name!r}{usual}: {rules.own.__name__}'s is of "
                "another scale, and is not taken"
            )


def _check_filled(rule: type[Rule], group: Mapping[str, Any], filled: Mapping[str, Any]) -> None:
    """Refuse a group that ``ZeroRedundancyOptimizer`` has given settings of another rule, or cannot keep.

    Raises:
        ValueError: naming the setting.
    """
    if group["rule"] != rule.__name__ or rule.__name__ not in RULES:
        raise ValueError(
            f"ZeroRedundancyOptimizer keeps a group's 'rule' in its checkpoints: write the name of a built-in rule, "
            f"such as {rule.__name__ if rule.__name__ in RULES else 'Lion'!r}, not {group['rule']!r}"
        )
    for setting in settings_of(rule):
        name = setting.name
        if name in filled and name in group and group[name] == filled[name]:
            raise ValueError(
                f"ZeroRedundancyOptimizer would give its {name}={filled[name]!r} to the group with "
                f"rule={rule.__name__!r} too: write {name!r} into the groups of the other rule instead"
            )

"""The mathematics: one file per optimizer, written once, run by every engine.

A new optimizer needs only a new file in this folder with a final subclass of :class:`Rule`; this module finds it.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from abc import ABCMeta

from gradstep.rules.base import Rule, Slot, State, StepRule
from gradstep.rules.modify import Modifier, modify
from gradstep.rules.settings import settings_of

RULES: dict[str, type[Rule]] = {}
"""Every built-in rule by its class name, in alphabetical order of its file."""

MODIFIERS: dict[str, type[Modifier]] = {}
"""Every built-in modifier of rules, likewise."""

for _module in pkgutil.iter_modules(__path__):
    _members = vars(importlib.import_module(f"{__name__}.{_module.name}")).items()
    # By type(), since Python 3.10 calls an alias such as `tuple[float]` a class too.
    _rules = {name: kind for name, kind in _members if issubclass(type(kind), ABCMeta) and issubclass(kind, Rule)}
    MODIFIERS |= {name: rule for name, rule in _rules.items() if Modifier in rule.__bases__}
    RULES |= {name: rule for name, rule in _rules.items() if not inspect.isabstract(rule) and name not in MODIFIERS}
globals().update(RULES | MODIFIERS)

__all__ = [
    "MODIFIERS",
    "RULES",
    "Modifier",
    "Rule",
    "Slot",
    "State",
    "StepRule",
    "modify",
    "settings_of",
    *RULES,
    *MODIFIERS,
]

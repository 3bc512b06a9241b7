"""The mathematics: one file per optimizer, written once, run by every engine.

A new file in this folder with a final subclass of :class:`Rule` is all that a new optimizer needs: it is found here.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil

from gradstep.rules.base import Rule, Slot, State
from gradstep.rules.settings import settings_of

RULES: dict[str, type[Rule]] = {}
"""Every built-in rule by its class name, in alphabetical order of its file."""

for _module in pkgutil.iter_modules(__path__):
    _found = vars(importlib.import_module(f"{__name__}.{_module.name}"))
    RULES |= {
        n: v for n, v in _found.items() if inspect.isclass(v) and issubclass(v, Rule) and not inspect.isabstract(v)
    }
globals().update(RULES)

__all__ = ["RULES", "Rule", "Slot", "State", "settings_of", *RULES]

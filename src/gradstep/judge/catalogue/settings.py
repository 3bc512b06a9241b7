"""A setting without effect: made for each rule from its own settings."""

from __future__ import annotations

from gradstep.judge.catalogue.mistake import Mistake, habit
from gradstep.rules import Rule, settings_of


def of(rule: type[Rule]) -> tuple[Mistake, ...]:
    """One mistake for each setting of the rule: it is ignored, as if it had its default."""
    return tuple(
        Mistake(
            f"{setting.name.replace('_', '-')}-ignored",
            f"the setting {setting.name} ignored ({setting.default} is used)",
            f"where `{setting.name}` is used",
            "the rule's docstring in gradstep.rules",
            (habit(ignores=(setting.name,)),),
            only=(rule.__name__,),
        )
        for setting in settings_of(rule)
    )

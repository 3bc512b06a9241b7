"""A setting without effect, or with one that nobody asked for: made for each rule from its own settings and slots."""

from __future__ import annotations

from gradstep.judge.algebra.anatomy import NAMES
from gradstep.judge.catalogue import epsilons
from gradstep.judge.catalogue.mistake import RULE, Mistake, habit
from gradstep.judge.catalogue.state import WORDS, not_stored
from gradstep.judge.formula import examples
from gradstep.rules import Rule
from gradstep.rules.settings import shared_settings_of


def of(rule: type[Rule]) -> tuple[Mistake, ...]:
    """One mistake for each setting that has no effect, each flag that is always on, each slot that is not kept."""
    ignored = (
        Mistake(
            f"{setting.name.replace('_', '-')}-ignored",
            f"the setting {setting.name} ignored ({setting.default} is used)",
            f"where `{setting.name}` is used",
            RULE,
            habits=habit(ignores=(setting.name,)),
        )
        for setting in shared_settings_of(rule)
    )
    always = (
        Mistake(
            f"{setting.name.replace('_', '-')}-always",
            "Nesterov's step always" if setting.name == "nesterov" else f"{setting.name} always on",
            f"where `{setting.name}` is not set",
            RULE,
            habits=habit(always=(setting.name,)),
        )
        for setting in shared_settings_of(rule)
        if setting.default is False
    )
    slots = dict.fromkeys(s.name for example, ndim in examples(rule) for s in example.slots(ndim))
    unstored = (not_stored(slot, WORDS.get(slot, f"the state {slot}")) for slot in slots)
    eps = next((s.default for s in shared_settings_of(rule) if s.name in NAMES["eps"]), None)
    written = (epsilons.always(value) for value in epsilons.VALUES if eps != float(value))
    return (*unstored, *ignored, *always, *written)

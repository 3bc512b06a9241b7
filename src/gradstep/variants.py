"""The names of optimizers with other storage than float32 in memory: of classes, and of Hugging Face's settings."""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from gradstep.rules import RULES, Rule, settings_of

VARIANTS: Mapping[str, tuple[str, str, bool]] = {
    ("Paged" if paged else "") + name + ("" if state == "float32" else state): (name, state, paged)
    for name, rule in RULES.items()
    if rule.elementwise  # the others keep a row and a column: nothing to save
    for state, paged in (("8bit", False), ("float32", True), ("8bit", True))
}
"""The rule, the precision of state and whether it is paged, for every class beside the rules' own: ``AdamW8bit``,
``PagedAdamW``, ``PagedAdamW8bit``, ``Lion8bit`` and so on."""

_BY_LOWER = {name.lower(): name for name in RULES}
_NAME = re.compile(r"(?P<paged>paged_)?(?P<rule>[a-z]+)(_torch|_hf|_apex)?(_fused|_bnb)?(_(?P<bits>8bit|32bit))?")


def meant(name: str) -> tuple[str, str, bool]:
    """The rule, the precision of state and whether it is paged, that a name stands for.

    Raises:
        ValueError: it stands for none.
        TypeError: it is no string.

    >>> meant("paged_adamw_32bit")
    ('AdamW', 'float32', True)
    >>> meant("adamw_torch_4bit")
    Traceback (most recent call last):
    ValueError: Unknown optimizer: 'adamw_torch_4bit' (did you mean adamw_torch, adam_torch or radam_torch?)
    """
    if not isinstance(name, str):
        raise TypeError(f"the name of an optimizer must be a string such as 'adamw_8bit', but is {name!r}")
    found = _NAME.fullmatch(name)
    rule = _BY_LOWER.get(found["rule"]) if found else None
    if found is None or rule is None:
        known = [f"{paged}{rule}{rest}" for rule in _BY_LOWER for paged, rest in _FORMS]
        near = get_close_matches(name, known, n=3)
        hint = (
            f"did you mean {', '.join(near[:-1])}{' or ' if near[1:] else ''}{near[-1]}?"
            if near
            else (f"give [paged_]RULE[_8bit], of {', '.join(_BY_LOWER)}")
        )
        raise ValueError(f"Unknown optimizer: {name!r} ({hint})")
    return rule, "8bit" if found["bits"] == "8bit" else "float32", bool(found["paged"])


_FORMS = (
    ("", ""),
    ("", "_torch"),
    ("", "_torch_fused"),
    ("", "_hf"),
    ("", "_8bit"),
    ("", "_32bit"),
    ("", "_bnb_8bit"),
    ("paged_", "_32bit"),
    ("paged_", "_8bit"),
)

_SPELLINGS = {"learning_rate": "lr", "adam_epsilon": "eps"}
_BETAS = ("adam_beta1", "adam_beta2")


def respelled(rule: type[Rule], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings under the rule's own names, from those that Hugging Face's ``TrainingArguments`` have for them.

    Raises:
        TypeError: one setting under two names, or a β for a rule that has none.

    >>> respelled(RULES["AdamW"], {"learning_rate": 1e-4, "adam_beta2": 0.95})
    {'lr': 0.0001, 'betas': (0.9, 0.95)}
    """
    named: dict[str, Any] = {}
    for name, value in settings.items():
        own = "betas" if name in _BETAS else _SPELLINGS.get(name, name)
        if own in settings and own != name:
            raise TypeError(f"{own} and {name} are the same setting: give one of them")
        if name in _BETAS:
            defaults = [s.default for s in settings_of(rule) if s.name == "betas"]
            if not defaults:
                raise TypeError(f"{rule.__name__} has no betas, so {name} means nothing to it")
            pair = list(named.get("betas", defaults[0]))
            pair[_BETAS.index(name)] = value
            value = tuple(pair)
        named[own] = value
    return named

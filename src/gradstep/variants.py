"""The texts that stand for an optimizer: names of classes, Hugging Face's names and settings, rules in files."""

from __future__ import annotations

import importlib.util
import inspect
import re
import sys
from collections.abc import Mapping
from difflib import get_close_matches
from functools import cache
from pathlib import Path
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


_FILE = re.compile(r"(?P<file>.+\.py)(:(?P<name>[A-Za-z_]\w*))?")


def names_file(text: str) -> bool:
    """Whether a text names a rule in a file, as ``mine.py:Signum`` does, and not a built-in one.

    >>> names_file("mine.py:Signum"), names_file("adamw")
    (True, False)
    """
    return _FILE.fullmatch(text) is not None


def rule_in_file(text: str) -> type[Rule]:
    """The rule that ``FILE.py:NAME`` names; without a name, the only one that the file defines.

    The file is run once in this process, whatever it contains.

    Raises:
        ValueError: there is no such file or rule in it, the file does not import, or the rule is not finished.
    """
    found = _FILE.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} names no rule in a file: write FILE.py:NAME")
    rules = _rules_of(Path(found["file"]).resolve())
    there = f"{found['file']} defines the rules {', '.join(rules)}" if rules else f"{found['file']} defines no rule"
    name = found["name"] or (next(iter(rules)) if len(rules) == 1 else "")
    if name not in rules:
        advice = "write FILE.py:NAME" if rules else "a rule is a subclass of gradstep.Rule"
        raise ValueError(f"{'No rule ' + repr(name) + ': ' if name else ''}{there} ({advice})")
    if inspect.isabstract(rules[name]):
        missing = ", ".join(sorted(rules[name].__abstractmethods__))
        raise ValueError(f"{name} in {found['file']} is not finished: write {missing}")
    if "__dataclass_fields__" not in vars(rules[name]):
        raise ValueError(f"{name} in {found['file']} needs @dataclass(frozen=True) above it")
    return rules[name]


@cache
def _rules_of(file: Path) -> dict[str, type[Rule]]:
    if not file.is_file():
        raise ValueError(f"there is no file {file}")
    # A name of its own, so that a file called like a library takes no library's place.
    module_name = f"_gradstep_rules_in_{file.stem}_{abs(hash(str(file))):x}"
    spec = importlib.util.spec_from_file_location(module_name, file)
    if spec is None or spec.loader is None:
        raise ValueError(f"{file} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # dataclasses look their module up
    sys.path.insert(0, str(file.parent))  # what lies beside the file can be imported by it
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[module_name]
        raise ValueError(f"{file.name} does not import: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(str(file.parent))
    return {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, Rule) and value.__module__ == module_name
    }

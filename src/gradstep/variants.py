"""Texts that name an optimizer: names of classes, Hugging Face's names and settings, rules in files."""

from __future__ import annotations

import importlib.util
import inspect
import re
import sys
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, final

from gradstep.rules import RULES, Rule, settings_of
from gradstep.spelling import suggest
from gradstep.storage.policy import STATES

_SMALL = tuple(state for state, codec in STATES.items() if codec(True).block > 1)

VARIANTS: Mapping[str, tuple[str, str, bool]] = {
    ("Paged" if paged else "") + name + ("" if state == "float32" else state): (name, state, paged)
    for name, rule in RULES.items()
    if rule.sees != "tensor"  # Adafactor keeps only a row and a column: smaller state would save nothing
    for state, paged in (*((s, False) for s in _SMALL), ("float32", True), *((s, True) for s in _SMALL))
    if rule.sees == "elements" or not paged  # state is paged in windows, which cut through matrices
}
"""Classes beside the rules' own (``AdamW8bit``, ``PagedAdamW``, ``PagedAdamW8bit``, ``Lion8bit`` and so on): for each
the rule, the precision of state and whether state is paged."""

_BY_LOWER = {name.lower(): name for name in RULES}
_BITS: Mapping[str | None, str] = {None: "float32", "32bit": "float32", **{state: state for state in _SMALL}}
_NAME = re.compile(  # the underlines are missing in the names of classes, such as PagedAdamW8bit
    rf"(?P<paged>paged_?)?(?P<rule>[a-z]+)(_torch|_hf|_apex)?(_fused|_npu_fused|_xla|_bnb)?(_?(?P<bits>32bit|{'|'.join(_SMALL)}))?"
)


def parse_name(name: object) -> tuple[str, str, bool]:
    """Return the rule that a name stands for, the precision of state, and whether state is paged.

    Args:
        name: the name of a rule or of an optimizer, or one of Hugging Face's names; in upper or lower case.

    Raises:
        ValueError: the name stands for no optimizer; the message has the nearest names.
        TypeError: the name is not a string.

    >>> parse_name("paged_adamw_32bit"), parse_name("PagedAdamW")
    (('AdamW', 'float32', True), ('AdamW', 'float32', True))
    >>> parse_name("adamw_torch_npu_fused") == parse_name("adamw_torch_xla") == parse_name("adamw")
    True
    >>> parse_name("adamw_torch_4bit")
    ('AdamW', '4bit', False)
    """
    if not isinstance(name, str):
        raise TypeError(f"the name of an optimizer must be a string such as 'adamw_8bit', but is {name!r}")
    lower = name.lower()
    promise = PROMISES.get(lower)
    if promise is not None and not (promise.settings or promise.releases):
        return parse_name(promise.name)
    match = _NAME.fullmatch(lower)
    rule = _BY_LOWER.get(match["rule"]) if match else None
    if match is None or rule is None:
        many = _FORMS if set("_0123456789") & set(name) else _FORMS[:1]  # a plain name is near a rule's
        names = [*PROMISES, *(f"{paged}{rule}{rest}" for rule in _BY_LOWER for paged, rest in many)]
        forms = f" Give [paged_]RULE[_{'|_'.join(_SMALL)}], of {', '.join(_BY_LOWER)}"
        raise ValueError(f"Unknown optimizer: {name!r}.{explain_name(name) or suggest(name, names, most=3) or forms}")
    return rule, _BITS[match["bits"]], bool(match["paged"])


def find_named_rule(text: object) -> type[Rule]:
    """Return the rule that a text names: as :func:`parse_name` has the names, or ``FILE.py:NAME``.

    Raises:
        ValueError: no rule of that name, or a name that also says how state is stored.
        TypeError: the name is not a string.

    >>> find_named_rule("adamw").__name__, find_named_rule("AdamW_torch").__name__
    ('AdamW', 'AdamW')
    """
    if isinstance(text, str) and names_file(text):
        return rule_in_file(text)
    name, state, paged = parse_name(text)
    if state != "float32" or paged:
        raise ValueError(
            f"{text!r} names a rule and how its state is stored: give the rule alone here, {name.lower()!r}"
        )
    return RULES[name]


def make_rule(kind: type[Rule], settings: Mapping[str, Any]) -> Rule:
    """Return a rule with settings.

    Raises:
        TypeError: the rule has no such setting, or needs another one; the message has the rule's settings.
        ValueError: a setting out of its bounds.

    >>> make_rule(RULES["Lion"], {"beta": (0.9, 0.95)})
    Traceback (most recent call last):
    TypeError: Lion has no setting 'beta' (it has lr, betas, weight_decay, maximize). Did you mean 'betas'?
    """
    own = {setting.name: setting for setting in settings_of(kind)}
    for name in settings:
        if name not in own:
            near = suggest(name, own, most=1)
            raise TypeError(f"{kind.__name__} has no setting {name!r} (it has {', '.join(own)}).{near}")
    for name, setting in own.items():
        if name not in settings and setting.default is MISSING:
            raise TypeError(f"{kind.__name__} needs its setting {name!r}: it has no default")
    return kind(**settings)


@final
@dataclass(frozen=True)
class Promise:
    """What a name promises beside a rule, the precision of its state and pages."""

    name: str  # the name of rule, precision and pages
    settings: Mapping[str, Any] = field(default_factory=dict)
    releases: bool = False  # whether gradients are released in the backward pass


PROMISES: Mapping[str, Promise] = {
    "adamw_anyprecision": Promise("adamw", {"rounding": "kahan"}),
    "lomo": Promise("sgd", releases=True),
    "adalomo": Promise("adafactor", releases=True),
    "stable_adamw": Promise("stableadamw"),
    **{f"schedule_free_{rule}": Promise(f"schedulefree{rule}") for rule in ("adamw", "radam", "sgd")},
}
"""The names of Hugging Face that promise more than :func:`parse_name` returns; :func:`gradstep.create` keeps it."""

_LOW_RANK = " No rule here keeps state of a low rank: take {0!r}, of 8 bits{1}."
_LAYERWISE = ", with gradstep.release_gradients(model, optimizer)"

_NOT_HERE: Mapping[str, str] = {
    "galore_adamw": _LOW_RANK.format("adamw_8bit", ""),
    "galore_adamw_8bit": _LOW_RANK.format("adamw_8bit", ""),
    "galore_adamw_layerwise": _LOW_RANK.format("adamw_8bit", _LAYERWISE),
    "galore_adamw_8bit_layerwise": _LOW_RANK.format("adamw_8bit", _LAYERWISE),
    "galore_adafactor": " No rule here keeps state of a low rank: take 'adafactor', which keeps rows and columns.",
    "galore_adafactor_layerwise": " No rule here keeps state of a low rank: take 'adalomo', Adafactor with released "
    "gradients.",
    "apollo_adamw": _LOW_RANK.format("adamw_8bit", ""),
    "apollo_adamw_layerwise": _LOW_RANK.format("adamw_8bit", _LAYERWISE),
    "grokadamw": " Its averages follow the loss, which no rule here sees: take 'adamw'.",
}


def explain_name(name: str) -> str:
    """Return why a name of Hugging Face's ``OptimizerNames`` is no rule here, and what is nearest; or an empty text.

    >>> explain_name("grokadamw")
    " Its averages follow the loss, which no rule here sees: take 'adamw'."
    """
    name = name.lower()
    if name in PROMISES:
        return f" Only gradstep.create() makes it: its rule is {PROMISES[name].name!r}."
    return _NOT_HERE.get(name, "")


_FORMS = (
    ("", ""),
    ("", "_torch"),
    ("", "_torch_fused"),
    ("", "_hf"),
    ("", "_32bit"),
    ("paged_", "_32bit"),
    *((paged, f"{bnb}_{state}") for state in _SMALL for paged, bnb in (("", ""), ("", "_bnb"), ("paged_", ""))),
)

_SPELLINGS = {"learning_rate": "lr", "adam_epsilon": "eps"}
_BETAS = ("adam_beta1", "adam_beta2")


def rename_settings(rule: type[Rule], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with Hugging Face's names (of ``TrainingArguments``) replaced by the rule's own.

    Raises:
        TypeError: one setting under two names, or a β for a rule without betas.

    >>> rename_settings(RULES["AdamW"], {"learning_rate": 1e-4, "adam_beta2": 0.95})
    {'lr': 0.0001, 'betas': (0.9, 0.95)}
    """
    renamed: dict[str, Any] = {}
    for name, value in settings.items():
        own = "betas" if name in _BETAS else _SPELLINGS.get(name, name)
        if own in settings and own != name:
            raise TypeError(f"{own} and {name} are the same setting: give one of them")
        if name in _BETAS:
            defaults = [s.default for s in settings_of(rule) if s.name == "betas"]
            if not defaults:
                raise TypeError(f"{rule.__name__} has no betas, so {name} means nothing to it")
            pair = list(renamed.get("betas", defaults[0]))
            pair[_BETAS.index(name)] = value
            value = tuple(pair)
        renamed[own] = value
    return renamed


_FILE = re.compile(r"(?P<file>.+\.py)(:(?P<name>[A-Za-z_]\w*))?")


def names_file(text: str) -> bool:
    """Return whether a text names a rule in a file, such as ``mine.py:Signum``.

    >>> names_file("mine.py:Signum"), names_file("adamw")
    (True, False)
    """
    return _FILE.fullmatch(text) is not None


def rule_in_file(text: str) -> type[Rule]:
    """Return the rule that ``FILE.py:NAME`` names; without a name, the only rule of the file.

    The file runs once in this process, whatever it contains.

    Raises:
        ValueError: there is no such file or rule, the file does not import, or the rule is not finished.
    """
    match = _FILE.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} names no rule in a file: write FILE.py:NAME")
    rules = _load_rules(Path(match["file"]).resolve())
    there = f"{match['file']} defines the rules {', '.join(rules)}" if rules else f"{match['file']} defines no rule"
    name = match["name"] or (next(iter(rules)) if len(rules) == 1 else "")
    if name not in rules:
        advice = "write FILE.py:NAME" if rules else "a rule is a subclass of gradstep.Rule"
        raise ValueError(f"{'No rule ' + repr(name) + ': ' if name else ''}{there} ({advice})")
    if inspect.isabstract(rules[name]):
        missing = ", ".join(sorted(rules[name].__abstractmethods__))
        raise ValueError(f"{name} in {match['file']} is not finished: write {missing}")
    if "__dataclass_fields__" not in vars(rules[name]):
        raise ValueError(f"{name} in {match['file']} needs @dataclass(frozen=True) above it")
    return rules[name]


@cache
def _load_rules(file: Path) -> dict[str, type[Rule]]:
    if not file.is_file():
        raise ValueError(f"there is no file {file}")
    # A unique module name, so that the file does not replace a library of the same name.
    module_name = f"_gradstep_rules_in_{file.stem}_{abs(hash(str(file))):x}"
    spec = importlib.util.spec_from_file_location(module_name, file)
    if spec is None or spec.loader is None:
        raise ValueError(f"{file} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # dataclasses look up their module
    sys.path.insert(0, str(file.parent))  # the file can import modules beside it
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

"""The grammar of `--optimizers`: names with settings, as text.

adamw                                     a name
sgd:lr=0.1,momentum=0.9                   a name and settings
adamw,lion,sgd:lr=0.1,momentum=0.9        several; a setting belongs to the name before it
adamw:betas=(0.9,0.95),amsgrad=True       values are Python literals
adamw:engine=eager,state=8bit             or plain words
torch.adamw                               torch's own class
mine.py:Signum,mine.py:Lars:lr=0.1        your own rules, in a file
"""

import ast
import re
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

SpecValue: TypeAlias = Any
"""A Python literal or a word; the optimizer's constructor checks it."""

NAME = re.compile(r"[A-Za-z][\w.]*")
IN_FILE = re.compile(r"(?P<name>[^=]*?\.py(:[A-Za-z_]\w*)?)(?P<colon>:(?P<rest>.*))?", re.DOTALL)
KEY_PATTERN = re.compile(r"[A-Za-z_]\w*")
WORD = re.compile(r"([A-Za-z]|\d+[A-Za-z]{2})[\w.-]*")
"""Also "8bit" and "512MB". One letter after digits is a mistyped number, such as "1e-"."""
NOT_WORDS = {"true": "True", "false": "False", "none": "None", "null": "None"}
OPENING_BRACKETS, CLOSING = "([{", ")]}"


@dataclass(frozen=True)
class OptimizerSpec:
    """One optimizer of a command line."""

    name: str  # its name in lower case, or the file and name of a rule
    settings: tuple[tuple[str, SpecValue], ...] = ()  # its settings, in the order of the text

    def __str__(self) -> str:
        settings = ",".join(f"{key}={write_value(value)}" for key, value in self.settings)
        return f"{self.name}:{settings}" if settings else self.name


def write_value(value: SpecValue) -> str:
    """Return a value as the text of a spec, without blanks."""
    if isinstance(value, str) and WORD.fullmatch(value) and not _is_literal(value):
        return value
    return _literal(value)


def _literal(value: SpecValue) -> str:
    """Return a Python literal without blanks between values; blanks inside a string stay."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{_literal(k)}:{_literal(v)}" for k, v in value.items()) + "}"
    if isinstance(value, (tuple, list)):
        inner = ",".join(map(_literal, value))
        if isinstance(value, list):
            return f"[{inner}]"
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    return repr(value)


def parse_specs(text: str) -> tuple[OptimizerSpec, ...]:
    """Return the optimizers that `text` names.

    Raises:
        ValueError: the text does not follow the grammar, names no optimizer, or names the same one twice.
    """
    specs: list[OptimizerSpec] = []
    for part in _split_at_commas(text):
        in_file = IN_FILE.fullmatch(part)
        if in_file:
            spec = OptimizerSpec(in_file["name"])
            specs.append(replace(spec, settings=_with_setting(spec, in_file["rest"])) if in_file["colon"] else spec)
            continue
        name, colon, rest = part.partition(":")
        if "=" in name:
            if not specs:
                raise ValueError(f"Setting {part!r} comes before any optimizer: write it as name:{part}")
            last = specs[-1]
            if not last.settings:
                raise ValueError(f"Setting {part!r} follows {last.name!r} without a colon: write {last.name}:{part}")
            specs[-1] = OptimizerSpec(last.name, _with_setting(last, part))
            continue
        name = name.strip()
        if not NAME.fullmatch(name):
            raise ValueError(f"Invalid optimizer name: {name!r} in {text!r} (write name:key=value, as in sgd:lr=0.1)")
        spec = OptimizerSpec(name.lower())
        if colon:
            spec = OptimizerSpec(spec.name, _with_setting(spec, rest))
        specs.append(spec)
    if not specs:
        raise ValueError("No optimizer given: write for example adamw,sgd:lr=0.1,momentum=0.9")
    twice = sorted({str(spec) for spec in specs if specs.count(spec) > 1})
    if twice:
        raise ValueError(f"Given more than once: {' '.join(twice)} (each optimizer races once; vary its settings)")
    return tuple(specs)


def _with_setting(spec: OptimizerSpec, text: str) -> tuple[tuple[str, SpecValue], ...]:
    """Return the settings of `spec` and the one in `text` ("lr=0.1")."""
    key, equals, value = (piece.strip() for piece in text.partition("="))
    if not equals or not value or not KEY_PATTERN.fullmatch(key):
        raise ValueError(f"Invalid setting: {text!r} of {spec.name!r} (write key=value, as in lr=0.1)")
    if key in dict(spec.settings):
        raise ValueError(f"Setting {key!r} of {spec.name!r} is given twice")
    return (*spec.settings, (key, _parse_value(key, value)))


def _parse_value(key: str, text: str) -> SpecValue:
    if text.lower() in NOT_WORDS and text not in NOT_WORDS.values():
        raise ValueError(f"Invalid value: {key}={text} (in Python it is written {NOT_WORDS[text.lower()]})")
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        if WORD.fullmatch(text):
            return text
        raise ValueError(
            f"Invalid value: {key}={text} (a Python literal such as 0.1, True, (0.9,0.95), or a plain word)"
        ) from None


def _is_literal(text: str) -> bool:
    """Return whether a word would be read as another value, as True and 0xff are."""
    try:
        ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text.lower() in NOT_WORDS
    return True


def _split_at_commas(text: str) -> list[str]:
    """Split a text at the commas outside brackets and quotes."""
    parts, depth, quote, start, escaped = [], 0, "", 0, False
    for index, char in enumerate(text):
        if escaped:
            escaped = False
        elif quote:
            escaped = char == "\\"
            quote = "" if char == quote else quote
        elif char in "'\"":
            quote = char
        elif char in OPENING_BRACKETS:
            depth += 1
        elif char in CLOSING:
            depth -= 1
        elif char == "," and depth == 0:
            parts.append(text[start:index])
            start = index + 1
        if depth < 0:
            raise ValueError(f"Unbalanced brackets in {text!r}")
    if depth or quote:
        raise ValueError(f"Unbalanced brackets or quotes in {text!r}")
    parts.append(text[start:])
    if parts == [""] or all(not part.strip() for part in parts):
        return []
    empty = [part for part in parts if not part.strip()]
    if empty:
        raise ValueError(f"Nothing between two commas in {text!r}")
    return [part.strip() for part in parts]

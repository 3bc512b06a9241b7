"""The public API: one page has every name, and every docstring an example and all parameters."""

import inspect
import re
from pathlib import Path

import pytest

import gradstep
import gradstep.numpy as gn
from gradstep import rules, schedules

PAGE = Path(__file__).parent.parent / "docs" / "api.md"
MODULES = {"gradstep": gradstep, "gradstep.numpy": gn, "gradstep.schedules": schedules, "gradstep.rules": rules}


def names_on_page() -> dict[str, list[str]]:
    """The names of each module: in first cells of tables, under a heading with the module's name, else gradstep's."""
    found: dict[str, list[str]] = {module: [] for module in MODULES}
    module = "gradstep"
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            module = next((name for name in reversed(MODULES) if f"`{name}`" in line), "gradstep")
        first, *rest = re.split(r" \| |\|$", line.removeprefix("| ")) if line.startswith("| ") else ("",)
        names = re.findall(r"`(\w+)`", first)
        found[module] += names
        assert not names or len(rest[0].split()) > 1, f"no description: {line}"
    return found


@pytest.mark.parametrize("module", MODULES)
def test_the_page_has_every_public_name_once(module):
    found, public = names_on_page()[module], list(MODULES[module].__all__)
    assert sorted(found) == sorted(public)


CALLABLES = {
    f"{module}.{name}": getattr(found, name)
    for module, found in MODULES.items()
    for name in found.__all__
    if callable(getattr(found, name))
}


def parameters_of(value: object) -> list[str]:
    assert callable(value)
    every = inspect.signature(value).parameters.values()
    return [p.name for p in every if p.name not in ("self", "args")]


def unnamed(parameters: list[str], text: str) -> list[str]:
    """The parameters without an entry ``name:`` (also ``name, other:``) and not quoted in the text."""
    entries = {name for line in re.findall(r"^ +((?:\w+, )*\w+): ", text, re.MULTILINE) for name in line.split(", ")}
    quoted = set(re.findall(r"``\**(\w+)", text))
    return [name for name in parameters if name not in entries | quoted]


SELF_EVIDENT = {"gradstep.numpy.HasGradient", "gradstep.numpy.Layer", "gradstep.numpy.Loss"}
"""Classes that are not constructed: a protocol, and bases without a constructor."""


@pytest.mark.parametrize("name", CALLABLES)
def test_every_docstring_has_an_example_and_its_parameters(name):
    doc = inspect.getdoc(CALLABLES[name]) or ""
    assert ">>> " in doc
    if name not in SELF_EVIDENT:
        assert unnamed(parameters_of(CALLABLES[name]), doc) == []


@pytest.mark.parametrize("name", sorted(rules.RULES))
def test_every_rule_names_its_source(name):
    doc = inspect.getdoc(rules.RULES[name]) or ""
    source = doc.partition("\nSource: ")[2].partition("\n\n")[0]
    assert re.search(r"\d{4}", source)


METHODS = {
    f"{function.__module__}.{function.__qualname__}": function
    for value in CALLABLES.values()
    if inspect.isclass(value)
    for member, function in inspect.getmembers(value, inspect.isroutine)
    if not member.startswith("_") and (getattr(function, "__module__", None) or "").startswith("gradstep")
}


@pytest.mark.parametrize("name", METHODS)
def test_every_method_names_its_parameters(name):
    doc = inspect.getdoc(METHODS[name]) or ""
    parameters = [p for p in parameters_of(METHODS[name]) if p != "cls"]
    assert doc
    assert unnamed(parameters, doc) == []

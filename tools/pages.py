"""Write the parts of the documentation that follow from the rules or from results: `make pages`; a test compares them.

They stand between two marks each (see :func:`texts`); docs/images/family.svg is a whole file. The docstring of a rule
says its nearest ancestor and what it is taken for, in the lines "Family:" and "Taken for:".
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, final

import numpy as np
import torch

import gradstep.numpy
from gradstep.report.markup import Markup, join, paint, tag
from gradstep.report.picture import Picture, draw_path, draw_text
from gradstep.rules import RULES, Rule, State, settings_of
from gradstep.variants import VARIANTS

DOCS = Path(__file__).resolve().parents[1] / "docs"
RESULTS = DOCS.parent / "benchmarks" / "results"

FAMILY = {"SGD, momentum": ("SGD", "the mean direction of many steps")}
FAMILY |= {"SGD, Nesterov": ("SGD, momentum", "the gradient one step ahead")}
"""Settings that are optimizers of their own in the tree: the nearest ancestor of each, and what it changes."""


def told(name: str, what: str) -> str:
    """Return what the docstring of a rule says after a word such as ``Family:``, without the period at the end."""
    found = re.search(rf"^{what}: (.*)\.$", inspect.getdoc(RULES[name]) or "", re.MULTILINE)
    if found is None:
        raise ValueError(f"the docstring of {name} has no line '{what}: ….'")
    return found[1]


def family() -> dict[str, tuple[str | None, str]]:
    """Return each optimizer's nearest ancestor and what it changes; children follow their parents."""
    every: dict[str, tuple[str | None, str]] = dict(FAMILY)
    for name in RULES:
        parent, _, change = told(name, "Family").partition("; ")
        every[name] = (None if parent == "none" else parent, change)

    def below(parent: str | None) -> Iterator[str]:
        for name, (above, _) in every.items():
            if above == parent:
                yield name
                yield from below(name)

    return {name: every[name] for name in below(None)}


@final
class Counted:
    """A number that counts the operations on it and its results."""

    operations = 0

    def _operate(self, *others: Any, **named: Any) -> Counted:
        Counted.operations += 1
        return self

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = _operate
    __abs__ = __neg__ = __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = _operate  # type: ignore[assignment]
    sqrt = sign = maximum = where = clamp = mean = rms = _operate
    __hash__ = None  # type: ignore[assignment]


def step(rule: Rule, p: Any, gradients: Any) -> Iterator[Any]:
    """Yield the parameter, float64, after each gradient."""
    slots = rule.slots(np.ndim(p))
    state = State(**{slot.name: np.full(slot.shape(np.shape(p)), slot.fill) for slot in slots})
    scalars = dict(rule.scalars)
    for number, g in enumerate(gradients, 1):
        c = rule.coefficients(number, **scalars)
        scalars = {name: c[name] for name in scalars}
        p = rule.update(p, np.full(np.shape(p), g), state, SimpleNamespace(**c))
        yield p


def describe(kind: type[Rule]) -> tuple[str, ...]:
    """Return a rule's row of the table, found by running it."""
    names = {setting.name for setting in settings_of(kind)}
    rule = kind(lambd=0.0) if "lambd" in names else kind()  # type: ignore[call-arg]  # ASGD's own decay moves weights
    start = np.ones((64, 64))
    elements = sum(np.zeros(slot.shape((1024, 1024))).size for slot in rule.slots(2)) / 2**20
    small, large = (_last(step(rule, start, [g] * 10)) - start for g in (1e-3, 1.0))
    if not np.allclose(large, small * 1e3, rtol=1e-3):
        adaptive = "each element" if any(not slot.signed for slot in rule.slots(2)) else "by the sign"
    else:
        adaptive = "no"
    if kind.sees == "means" and adaptive == "by the sign":
        adaptive = "each tensor"
    if kind.sees == "matrix":
        adaptive = "each singular value"
    *_, before, after = step(rule, start, [1.0, 1.0, 0.0])
    momentum = "yes" if not np.allclose(before, after, rtol=1e-9) else "optional" if "momentum" in names else "no"
    if "nesterov" in names or kind.__name__ == "NAdam":
        momentum += ", or Nesterov's" if "nesterov" in names else ", Nesterov's"
    decay = "no"
    if "weight_decay" in names:
        coefficients = kind(weight_decay=0.5).coefficients(1, **rule.scalars)  # type: ignore[call-arg]
        decay = "in the gradient" if coefficients.get("l2") else "on the weight"
    if "decoupled_weight_decay" in names:
        decay = "either"
    nbytes = 12 + 8 * elements
    operations = str(count(rule)) if rule.sees == "elements" else "–"
    memory, name = f"{1 + elements:.3g}×", kind.__name__
    return name, memory, adaptive, momentum, decay, operations, f"{nbytes:.0f}", told(name, "Taken for")


def _last(parameters: Iterator[Any]) -> Any:
    """Return the last of the parameters."""
    *_, last = parameters
    return last


def count(rule: Rule) -> int:
    """Return how many operations on an element one step of an elementwise rule takes."""
    Counted.operations = 0
    state = State(**{slot.name: Counted() for slot in rule.slots(2)})
    rule.update(Counted(), Counted(), state, SimpleNamespace(**rule.coefficients(2, **rule.scalars)))
    return Counted.operations


def table() -> str:
    """Return the table of optimizers."""
    head = ("optimizer", "memory", "adapts", "momentum", "decay", "operations", "bytes moved", "taken for")
    rows = [head, ("---", *["---:" if k in (0, 4, 5) else "---" for k in range(7)])]
    rows += [describe(RULES[name]) for name in family() if name in RULES]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


@final
@dataclass(frozen=True)
class FamilyTree(Picture):
    """The optimizers as a tree: each with what it changes of its nearest ancestor, and what it keeps."""

    title: str = "A family tree of optimizers"

    @property
    def width(self) -> float:
        return 760.0

    def draw(self, width: float) -> tuple[float, Markup]:
        height, indent = 34.0, 34.0
        depth: dict[str, int] = {}
        row: dict[str, int] = {}
        drawn: list[Markup] = []
        for name, (parent, change) in family().items():
            depth[name], row[name] = (depth[parent] + 1 if parent else 0), len(row)
            x, y = depth[name] * indent, row[name] * height + 12
            if parent:
                left, top = depth[parent] * indent + 7, row[parent] * height + 20
                drawn.append(draw_path(f"M{left} {top}V{y - 4}H{x}", "pale", 1.5))
            drawn.append(tag("circle", cx=x + 7, cy=y - 4, r=4.5, **paint(fill="blue")))
            drawn.append(draw_text(name, x + 18, y, bold=True))
            drawn.append(draw_text(f"{change}; keeps {_slots(name)}", x + 18, y + 15, "quiet"))
        return len(row) * height + 4, join(drawn)


def _slots(name: str) -> str:
    """Return the names of the slots of an optimizer of the tree, such as ``SGD, momentum``."""
    kind, _, option = name.partition(", ")
    rule = RULES[kind](**({"momentum": 0.9, "nesterov": option == "Nesterov"} if option else {}))  # type: ignore[arg-type]
    return " and ".join(slot.name for slot in rule.slots(2)) or "nothing"


def errors() -> str:
    """Return the tables of benchmarks/results/generalization.md, their titles in italics."""
    _, found = (RESULTS / "generalization.md").read_text(encoding="utf-8").split("\n## ", 1)
    return re.sub("^## (.*)$", r"*\1*", f"## {found.strip()}", flags=re.MULTILINE)


FEATURES = {
    "groups of parameters": "add_param_group",
    "`state_dict`, `load_state_dict`": "load_state_dict",
    "`get_momentum_state`, `set_momentum_state`": "get_momentum_state",
    "`step(closure)`": "closure",
    "clipping inside the step": "max_grad_norm",
    "`amsgrad`, `maximize`": "amsgrad",
    "`decoupled_weight_decay`": "decoupled_weight_decay",
    "Adam without bias correction": "bias_correction",
    "choice of the engine": "engine",
    "state in 8 bits or bfloat16": "state",
    "bfloat16 weights that keep small updates": "rounding",
    "paged state": "paged",
}
"""Features of Adam and SGD, by the method, or the argument of the constructor or of ``step``, that stands for them."""


def has(module: Any, name: str) -> bool:
    """Return whether Adam or SGD of a module has a method, or takes an argument, of that name."""
    kinds = (module.Adam, module.SGD)
    takes = [name in inspect.signature(called).parameters for kind in kinds for called in (kind, kind.step)]
    return any(takes) or any(hasattr(kind, name) for kind in kinds)


def frameworks() -> str:
    """Return the table of the optimizers and features of torch.optim and of both fronts."""
    modules = {"`torch.optim`": torch.optim, "`gradstep`": gradstep, "`gradstep.numpy`": gradstep.numpy}
    rows = {name: [hasattr(module, name) for module in modules.values()] for name in sorted(RULES)}
    rows |= {feature: [has(module, name) for module in modules.values()] for feature, name in FEATURES.items()}
    lines = [f"| | {' | '.join(modules)} |", "|---|---|---|---|"]
    lines += [f"| {name} | {' | '.join('yes' if there else '–' for there in row)} |" for name, row in rows.items()]
    return "\n".join(lines)


def listed(names: Sequence[str], word: str = "and") -> str:
    """Return names as code: ``a``, ``b`` and ``c``."""
    *first, last = (f"`{name}`" for name in names)
    return f"{', '.join(first)} {word} {last}"


def rows() -> str:
    """Return the rows of the page of the API for rules and their variants."""
    lines = ["| name | what it is |", "|---|---|"]
    for name in family():
        if name in RULES:
            first, *_ = (inspect.getdoc(RULES[name]) or "").splitlines()
            lines.append(f"| `{name}` | {first.removeprefix(f'{name}: ').removesuffix('.')} |")
    for name in RULES:
        variants = [variant for variant, (rule, *_) in VARIANTS.items() if rule == name]
        if variants:
            whose = DEFAULTS if len(variants) > 1 else DEFAULTS.partition(",")[0]
            lines.append(f"| {', '.join(f'`{v}`' for v in variants)} | `{name}` with other defaults: {whose} |")
    return "\n".join(lines)


DEFAULTS = '`state="8bit"` or `"4bit"`, `paged=True`, both'

TORCH = sorted(name for name, kind in vars(torch.optim).items() if isinstance(kind, type) and name != "Optimizer")
"""The optimizers of torch."""


def row(names: Sequence[str], what: str) -> str:
    """Return a table of the page of the API with all names in one row."""
    return f"| name | what it is |\n|---|---|\n| {', '.join(f'`{name}`' for name in names)} | {what} |"


def differing() -> str:
    """Return the sentence on optimizers that only torch has, and those that only gradstep has."""
    lacks = listed([name for name in TORCH if name not in RULES])
    has_more = listed([name for name in family() if name in RULES and name not in TORCH])
    return f"There are no {lacks}; there are {has_more}, and what [a rule of one's own](own_rule.md) makes."


def reference() -> str:
    """Return the directives of the reference for every optimizer."""
    classes = "\n".join(f".. autoclass:: {name}\n   :no-members:" for name in family() if name in RULES)
    return f"```{{eval-rst}}\n.. currentmodule:: gradstep\n{classes}\n```"


def put(text: str, name: str, part: str) -> str:
    """Return a page's text with a new part between the marks of that name."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    between = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    if not between.search(text):
        raise ValueError(f"there are no marks {begin} and {end}")
    return between.sub(lambda _: f"{begin}\n{part}\n{end}", text)


def texts() -> dict[Path, str]:
    """Return what each file should contain."""
    names = [name for name in family() if name in RULES]
    others = [name for name in names if name not in ("SGD", "Adam", "AdamW")]
    every = f"There are {listed(names)}."
    parts = {
        "which_optimizer.md": {"optimizers": table()},
        "questions.md": {"errors": errors()},
        "texts.md": {"frameworks": frameworks()},
        "api.md": {
            "optimizers": rows(),
            "rules": row(names, "the rules of the classes of the same names"),
            "arrays": row(others, "the other rules, with the rule's own settings"),
        },
        "differences.md": {"optimizers": differing()},
        "numpy.md": {"optimizers": every},
        "../README.md": {"optimizers": every},
        "reference/optimizers.md": {"optimizers": reference()},
    }
    files = {DOCS / "images" / "family.svg": FamilyTree().file()}
    for page, marked in parts.items():
        text = (DOCS / page).read_text(encoding="utf-8")
        for name, part in marked.items():
            text = put(text, name, part)
        files[DOCS / page] = text
    return files


if __name__ == "__main__":
    for path, text in texts().items():
        path.write_text(text, encoding="utf-8")

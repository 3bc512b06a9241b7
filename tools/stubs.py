"""Write __init__.pyi of gradstep and gradstep.rules, for editors and type checkers.

The classes are made from the rules when the package is imported, where type checkers do not see them; these files
declare them. `make stubs` writes the files, and a test compares them with the rules.
"""

from __future__ import annotations

import sys
from pathlib import Path

from gradstep import HOMES
from gradstep.rules import MODIFIERS, RULES, settings_of
from gradstep.variants import VARIANTS

PACKAGE = Path(__file__).parent.parent / "src" / "gradstep"

_HEAD = '''"""Written by tools/stubs.py from the rules; do not edit."""

from pathlib import Path
from typing import final

from torch import Tensor, nn

'''

_TYPES = (  # used in the stubs, but not public
    "from gradstep.optimizers.arguments import ParamsT\n",
    "from gradstep.storage.policy import RoundingName, StateName\n",
)

_NAMED = {
    "gradstep": ("rules", "schedules"),
    "gradstep.rules": ("RULES", "Modifier", "Rule", "Slot", "State", "StepRule", "modify"),
    **HOMES,
}


_RULES_HEAD = '"""Written by tools/stubs.py from the rules; do not edit."""\n\n'

_RULES_IMPORTS = (
    "from gradstep.rules.base import Rule as Rule\n",
    "from gradstep.rules.base import Slot as Slot\n",
    "from gradstep.rules.base import State as State\n",
    "from gradstep.rules.base import StepRule as StepRule\n",
    "from gradstep.rules.modify import Modifier as Modifier\n",
    "from gradstep.rules.modify import modify as modify\n",
    "from gradstep.rules.settings import settings_of as settings_of\n",
)


def texts() -> dict[Path, str]:
    """Return every stub file with its text."""
    imports = [f"from {rule.__module__} import {name} as {name}\n" for name, rule in (RULES | MODIFIERS).items()]
    public = [
        f"from {home} import {name} as {name}\n"
        for home in sorted(_NAMED)
        for name in sorted(_NAMED[home], key=_as_sorted_by_ruff)
        if name not in RULES and name not in VARIANTS
    ]
    public = sorted([*public, *_TYPES], key=lambda line: line.split()[1])
    head = _HEAD + "".join(public) + "\n__version__: str\n\n"
    return {
        PACKAGE / "__init__.pyi": head + "\n".join([*map(_class, RULES), _variants()]),
        PACKAGE / "rules" / "__init__.pyi": "".join(
            [
                _RULES_HEAD,
                *sorted((*imports, *_RULES_IMPORTS)),
                "\nMODIFIERS: dict[str, type[Modifier]]\nRULES: dict[str, type[Rule]]\n",
            ]
        ),
    }


def _as_sorted_by_ruff(name: str) -> tuple[int, str]:
    return (0 if name.isupper() else 1 if name[0].isupper() else 2), name


def _class(name: str) -> str:
    settings = settings_of(RULES[name])
    places = [f"{s.name}: {_kind(s.name, str(s.type))} = ..." for s in settings if not s.kw_only]
    named = [f"{s.name}: {_kind(s.name, str(s.type))} = ..." for s in settings if s.kw_only]
    own = [
        "engine: str = ...",
        "state: StateName = ...",
        "rounding: RoundingName = ...",
        "seed: int | None = ...",
        "paged: bool | str | Path | Pages = ...",
        "page_budget: str | int | None = ...",
        "model: nn.Module | None = ...",
        "foreach: bool | None = ...",
        "fused: bool | None = ...",
        "capturable: bool = ...",
        "differentiable: bool = ...",
    ]
    arguments = ["self", "params: ParamsT", *places, "*", *named, *own]
    lines = "".join(f"        {argument},\n" for argument in arguments)
    constructor = f"    def __init__(\n{lines}    ) -> None: ...\n"
    rule = "    @classmethod\n    def rule(cls) -> type[Rule]: ...\n"
    base = "AveragingOptimizer" if RULES[name].averages else "Optimizer"
    return f"@final\nclass {name}({base}):\n{constructor}{rule}"


def _variants() -> str:
    """Declare the variants with the type of the rule's own class, which takes the same arguments."""
    return "".join(f"{name} = {rule}\n" for name, (rule, _, _) in VARIANTS.items())


def _kind(name: str, annotation: str) -> str:
    return "float | Tensor" if name == "lr" else annotation


if __name__ == "__main__":
    for path, text in texts().items():
        path.write_text(text, encoding="utf-8")
        sys.stdout.write(f"wrote {path.relative_to(PACKAGE.parent)}\n")

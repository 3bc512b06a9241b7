"""Files and names of the package: no file is too long to read in one sitting, and a name has one meaning."""

import ast
from collections import defaultdict
from pathlib import Path

import pytest

import gradstep

PACKAGE = Path(gradstep.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

MOST_LINES = 400


def test_no_file_is_too_long():
    lines = {file.relative_to(PACKAGE).as_posix(): len(file.read_text("utf-8").splitlines()) for file in FILES}
    assert len(lines) > 200
    assert not {name: count for name, count in lines.items() if count > MOST_LINES}


FRONT = "the same thing for NumPy, in the other front"
COLLECTED = "each module of the folder has one, and the folder's __init__ collects them"
COMMAND = "the name of the command, and of what it calls"
SHARED_NAMES = {
    "SGD": FRONT,
    "Adam": FRONT,
    "AdamW": FRONT,
    "ENGINES": FRONT,
    "Optimizer": FRONT,
    "Part": FRONT,
    "Table": FRONT,
    "CHANGES": COLLECTED,
    "EXPERIMENT": COLLECTED,
    "optimizer": FRONT,
    "build_rule": FRONT,
    "array_of": FRONT,
    "is_dense": FRONT,
    "check": COMMAND,
    "lr_find": COMMAND,
    "plan": COMMAND,
    "run": "the command, the session of races that it calls, and a kernel",
    "step_through": COMMAND,
    "main": "what a script runs",
    "number": "a number among a rule's settings, in words on a page, in an expression of the judge",
    "count": "a whole number among a rule's settings, and of a schedule's updates",
    "real": "the real parts of a tensor, and a real number among a rule's settings",
    "epsilon": "a rule's setting, and what stands for it where it is None",
    "allocate": "memory of a kernel's stack, and of pages",
    "is_tensor": "asked below torch, of a rule's values and of stored numbers",
    "read_group": "a group of torch's, and one of a checkpoint of bitsandbytes",
}
"""Names of functions, classes and constants that several modules define, and why that is no second meaning."""


def names_defined(source: str) -> set[str]:
    """The functions, classes, aliases and constants that a module defines for others: without a leading underscore."""
    names: set[str] = set()
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {part.id for target in node.targets for part in ast.walk(target) if isinstance(part, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
    return {name for name in names if not name.startswith("_")}


@pytest.fixture(scope="module")
def homes() -> dict[str, list[str]]:
    """The modules that define each name."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for file in FILES:
        for name in names_defined(file.read_text("utf-8")):
            found[name].append(file.relative_to(PACKAGE).as_posix())
    return found


def test_a_name_has_one_meaning(homes):
    several = {name: files for name, files in homes.items() if len(files) > 1}
    assert not {name: files for name, files in several.items() if name not in SHARED_NAMES}
    assert not SHARED_NAMES.keys() - several.keys(), "these have one meaning now: take them off the list"


def test_definitions_are_seen():
    source = "class A: ...\nB = C, D = 1, 2\nE: int = 3\n_F = 4\ndef g(): ...\ndef _h(): ...\n"
    assert names_defined(source) == {"A", "B", "C", "D", "E", "g"}

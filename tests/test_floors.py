"""A room imports only from floors below its own, or from rooms of its floor that do not lead back to it."""

import ast
from pathlib import Path

import pytest

import gradstep
from gradstep.storage import codecs, halves

PACKAGE = Path(gradstep.__file__).parent
FLOORS = {
    "rules": 1,
    "storage": 1,
    "schedules": 1,
    "report": 1,
    "spelling": 1,
    "switches": 1,
    "variants": 1,
    "warn": 1,
    "engines": 2,
    "planner": 2,
    "optimizers": 3,
    "numpy": 3,
    "judge": 3,
    "learn": 4,  # its exams are the judge's, its experiments the fronts'
    "training": 4,
    "monitor": 4,
    "lab": 5,
    "cli": 6,
    "__main__": 7,
}


def imported(file: Path) -> set[str]:
    """The rooms that a file imports from, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name.split(".")[1] for name in names if name.startswith("gradstep.")} & FLOORS.keys()


def rooms() -> dict[str, set[str]]:
    """Every room with the other rooms that it imports from."""
    found: dict[str, set[str]] = {}
    for file in PACKAGE.rglob("*.py"):
        room = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if room != "__init__":
            found.setdefault(room, set()).update(imported(file) - {room})
    return found


def test_every_room_has_a_floor():
    found = rooms()
    assert found.keys() == FLOORS.keys()
    assert found["engines"] == {"rules", "storage", "switches", "warn"}, "the imports are not seen"


def test_nobody_imports_from_above():
    wrong = {f"{a} -> {b}" for a, others in rooms().items() for b in others if FLOORS[b] > FLOORS[a]}
    assert not wrong


def test_rooms_of_one_floor_make_no_circle():
    beside = {a: {b for b in others if FLOORS[b] == FLOORS[a]} for a, others in rooms().items()}
    while beside:
        ground = {a for a, others in beside.items() if not others & beside.keys()}
        assert ground, f"a circle among {sorted(beside)}"
        beside = {a: others for a, others in beside.items() if a not in ground}


def test_nobody_asks_for_the_class_of_a_codec():
    """Outside of ``storage/`` a codec is asked what it is (``codec.block > 1``), so that a new one needs no change."""
    names = {
        name
        for name, value in (vars(codecs) | vars(halves)).items()
        if isinstance(value, type) and issubclass(value, codecs.Codec)
    }
    assert "Blocks" in names
    found = {
        f"{file.relative_to(PACKAGE)}:{node.lineno}"
        for file in PACKAGE.rglob("*.py")
        if file.relative_to(PACKAGE).parts[0] != "storage"
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("isinstance", "issubclass", "type")
        for part in ast.walk(node)
        if isinstance(part, ast.Name | ast.Attribute) and ast.unparse(part).split(".")[-1] in names
    }
    assert not found


OUTSIDE = ("judge", "learn", "lab")
"""Rooms that could be one package of their own: of all others they import what any user may, and of each other all."""

REPOSITORY = Path(__file__).parent.parent

INTERFACES = (
    "monitor.doctor",
    "rules.base",
    "rules.newton_schulz",
    "rules.ops",
    "rules.settings",
    "report.markup",
    "report.scales",
    "report.words",
)
"""Modules inside of rooms that are for others as they are; else a room's own name is its interface."""

KERNELS = {"lab/bench.py", "lab/bench_memory.py"}
"""They time the fused engine's own machinery, in ``engines/fused``."""


def is_inside(module: str, name: str) -> bool:
    """Whether ``from module import name`` takes a private name, or a module that the room does not export itself."""
    room = PACKAGE.joinpath(*module.split(".")[1:])
    is_module = (room / f"{name}.py").exists() or (room / name / "__init__.py").exists()
    return name.startswith("_") or (is_module and f'"{name}"' not in (room / "__init__.py").read_text(encoding="utf-8"))


def modules_imported(file: Path) -> set[str]:
    """The modules of gradstep that a file imports or imports from, wherever in it; private names in them too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            if node.module.startswith("gradstep."):
                names |= {f"{node.module}.{alias.name}" for alias in node.names if is_inside(node.module, alias.name)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name.removeprefix("gradstep.") for name in names if name.startswith("gradstep.")}


FOLDERS = [*(PACKAGE / room for room in OUTSIDE), REPOSITORY / "benchmarks", REPOSITORY / "examples"]


@pytest.mark.parametrize("folder", FOLDERS, ids=[folder.name for folder in FOLDERS])
def test_outer_rooms_and_benchmarks_import_interfaces_only(folder):
    files = list(folder.rglob("*.py"))
    assert files
    deep = set()
    for file in files:
        machinery = file.is_relative_to(PACKAGE) and file.relative_to(PACKAGE).as_posix() in KERNELS
        for module in modules_imported(file):
            own = module.split(".")[0] in OUTSIDE or (machinery and module.startswith("engines.fused."))
            if "." in module and module not in INTERFACES and not own:
                deep.add(f"{file.name}: {module}")
    assert not deep, f"import these from the room itself: {sorted(deep)}"


@pytest.mark.parametrize(
    "line",
    ["from gradstep.engines import step", "from gradstep.engines.step import x", "from gradstep.rules import _x"],
)
def test_an_import_of_the_inside_of_a_room_is_seen(tmp_path, line):
    file = tmp_path / "file.py"
    file.write_text(line)
    assert {module for module in modules_imported(file) if "." in module}

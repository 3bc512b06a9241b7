"""What `import gradstep` loads: nothing slow that is not used. And what scripts import from it is there."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

SLOW = ("torch._dynamo", "torch._inductor", "llvmlite", "sklearn", "rich", "typer")


def test_an_optimizer_is_imported_without_compilers_and_plots():
    code = f"import sys, gradstep; gradstep.AdamW; print([m for m in {SLOW} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "[]"


def test_gradstep_itself_does_not_import_torch():
    code = "import sys, gradstep; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "False"


ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("folder", ["benchmarks", "examples", "tools"])
def test_what_scripts_import_from_gradstep_is_there(folder):
    """No test runs the benchmarks, so a name that is changed would be missed in them."""
    missing, found = [], 0
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "gradstep":
                module = importlib.import_module(node.module or "")
                found += len(node.names)
                missing += [f"{path.name}: {node.module}.{n.name}" for n in node.names if not _has(module, n.name)]
    assert missing == []
    assert found


def _has(module, name):
    if hasattr(module, name):
        return True
    try:
        importlib.import_module(f"{module.__name__}.{name}")
    except ImportError:
        return False
    return True

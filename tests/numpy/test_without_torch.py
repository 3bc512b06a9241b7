"""The room needs no torch: it does not import it, and its tests pass where there is none."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOM = Path(__file__).parent
WITH_TORCH = ("test_against_torch.py", "test_without_torch.py")
"""Torch is their oracle; and this one, which runs the others."""

BLOCKED = """
import sys
class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ModuleNotFoundError("No module named 'torch'", name="torch")
sys.meta_path.insert(0, NoTorch())
"""


def python(code, *arguments):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=ROOM.parent.parent,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_tests_of_the_room_pass():
    files = [str(file) for file in sorted(ROOM.glob("test_*.py")) if file.name not in WITH_TORCH]
    assert len(files) >= 6
    out = python(
        BLOCKED + "import pytest; sys.exit(pytest.main(['-q', '-p', 'no:cacheprovider', *sys.argv[1:]]))", *files
    )
    assert " passed" in out
    assert "skipped" not in out


def test_what_is_imported():
    """Nothing slow: LLVM only at the first step."""
    slow = ("torch", "llvmlite", "scipy", "sklearn")
    assert python(f"import sys, gradstep.numpy; print([m for m in {slow} if m in sys.modules])").strip() == "[]"


def test_a_step_does_not_import_torch():
    code = """
import sys
import numpy as np
import gradstep.numpy as gn
p = gn.Parameter(np.ones(100_000, np.float32), grad=np.ones(100_000, np.float32))
gn.AdamW([p], engine="fused").step()
print(p.data[0], "torch" in sys.modules)
"""
    assert python(code).split() == ["0.99899", "False"]

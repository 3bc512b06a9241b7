"""What `import gradstep` loads: nothing slow that is not used."""

import subprocess
import sys

SLOW = ("torch._dynamo", "torch._inductor", "llvmlite", "sklearn", "rich", "typer")


def test_an_optimizer_is_imported_without_compilers_and_plots():
    code = f"import sys, gradstep; gradstep.AdamW; print([m for m in {SLOW} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "[]"


def test_gradstep_itself_does_not_import_torch():
    code = "import sys, gradstep; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "False"

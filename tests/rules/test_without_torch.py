"""NumPy users need no torch: importing gradstep does not import it, and an optimizer says what to install."""

import subprocess
import sys
import textwrap


def python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_rules_without_torch():
    out = python("""
        import sys

        class NoTorch:
            def find_spec(self, name, path=None, target=None):
                if name.partition(".")[0] == "torch":
                    raise ModuleNotFoundError("No module named 'torch'", name="torch")

        sys.meta_path.insert(0, NoTorch())
        import gradstep

        print(sorted(gradstep.RULES))
        print(gradstep.rules.AdamW(lr=0.5).coefficients(step=1)["beta1"])
        print("AdamW" in dir(gradstep))
        try:
            gradstep.AdamW
        except ModuleNotFoundError as error:
            print(error)
    """)
    assert "'AdamW'" in out
    assert "0.9\nTrue\n" in out
    assert 'gradstep.AdamW works with PyTorch, which is not installed: pip install "gradstep[torch]"' in out


def test_import_is_lazy():
    assert python("import sys, gradstep; print('torch' in sys.modules, 'llvmlite' in sys.modules)") == "False False\n"


def test_unknown_name():
    assert "no attribute 'AdamZ'" in python("""
        import gradstep
        try:
            gradstep.AdamZ
        except AttributeError as error:
            print(error)
    """)

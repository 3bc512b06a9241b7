"""Files of all kinds of trouble, each judged in a process of its own: a clear verdict, never a crash."""

import json

import pytest

from gradstep.judge import Status
from gradstep.judge.isolation import check_file
from tests.children import run_module

STEP = """
    def step(self):
        for p in self.params:
            if p.grad is not None:
                {body}
"""
CLASS = """
class Mine:
    def __init__(self, params, lr=0.01):
        {init}self.params, self.lr = list(params), lr
"""


def source(body="p.data = p.data - self.lr * p.grad", init="", before=""):
    return before + CLASS.format(init=init) + STEP.format(body=body)


CASES = {
    "does not import": ("import nothing_of_that_name", "does not import: ModuleNotFoundError"),
    "is no Python": ("class Mine(:", "does not import: SyntaxError"),
    "ends itself on import": ("import sys; sys.exit(3)", "does not import: SystemExit"),
    "defines something else": ("class Other: pass", "defines no 'Mine'; it has Other"),
    "is no class": ("Mine = 3", "3 is no class, factory or function"),
    "raises when made": (source(init="raise OSError('no disk'); "), "the constructor raises OSError: no disk"),
    "needs another argument": (
        "class Mine:\n    def __init__(self, params, lr, temperature):\n        pass",
        "needs the argument temperature",
    ),
    "ends the process": (source("import os; os._exit(7)"), "ended its process (code 7) in the probe 'first step'"),
    "loops for ever": (
        source("\n                while True: pass"),
        "did not end within 1.5 s in the probe 'first step'",
    ),
    "loops on import": ("while True: pass", "did not end within 1.5 s in the probe 'loading the file'"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_cannot_be_judged_says_why(case, tmp_path):
    text, words = CASES[case]
    (tmp_path / "mine.py").write_text(text)
    verdict = check_file(f"{tmp_path}/mine.py:Mine", "sgd", time_limit=1.5 if "loops" in case else 30)
    assert verdict.status is Status.UNJUDGED
    assert verdict.exit_code == 2
    assert words in verdict.reason


FAILING = {
    "raises in the step": (source("raise KeyError('m')"), "KeyError: 'm' (line"),
    "exits in the step": (source("raise SystemExit"), "SystemExit"),
    "returns NaN": (source("p.data = p.data * float('nan')"), "got nan"),
    "writes into the gradient": (source("p.grad *= 2; p.data = p.data - self.lr / 2 * p.grad"), "gradient untouched"),
    "changes the shape": (source("import numpy as np; p.data = np.zeros(99)"), "changed the parameters' shapes"),
}


@pytest.mark.parametrize("case", FAILING)
def test_what_misbehaves_fails_with_the_reason(case, tmp_path):
    text, words = FAILING[case]
    (tmp_path / "mine.py").write_text(text)
    verdict = check_file(f"{tmp_path}/mine.py:Mine", "sgd")
    assert verdict.status is Status.FAILED
    assert words in str(verdict)


def test_prints_are_kept_apart_and_told(tmp_path):
    (tmp_path / "mine.py").write_text(source(before="print('hello')\n"))
    verdict = check_file(f"{tmp_path}/mine.py", "sgd")
    assert verdict.passed
    assert "It prints, 1 line in all: hello" in verdict.notes


@pytest.mark.parametrize("name", ["torch", "numpy", "random"])
def test_a_file_with_a_librarys_name_is_refused_before_it_is_in_the_way(name, tmp_path):
    file = tmp_path / f"{name}.py"
    file.write_text(source())
    assert f"{name}.py has the name of a library" in check_file(f"{file}:Mine", "sgd").reason


def test_no_file_is_a_verdict_too(tmp_path):
    assert "there is no file" in check_file(f"{tmp_path}/none.py:Mine", "sgd").reason


def run(*arguments):
    return run_module("gradstep", "check", *arguments)


def test_the_command_prints_a_table_or_json_and_ends_with_a_code(tmp_path):
    right, wrong = tmp_path / "right.py", tmp_path / "wrong.py"
    right.write_text(source())
    wrong.write_text(source("p.data = p.data + self.lr * p.grad"))
    passed = run(f"{right}:Mine", "--rule", "sgd", "--all")
    assert passed.returncode == 0
    assert "PASSED" in passed.stdout
    assert "kept gradient" in passed.stdout
    failed = run(f"{wrong}:Mine", "--rule", "sgd", "--json")
    assert failed.returncode == 1
    assert json.loads(failed.stdout)["matches"][0]["mistakes"] == ["ascent"]
    assert run(f"{tmp_path}/none.py:Mine", "--rule", "sgd").returncode == 2
    unknown = run(f"{right}:Mine", "--rule", "sgdd")
    assert unknown.returncode == 2
    assert "Did you mean 'sgd'" in " ".join(unknown.stderr.replace("│", " ").split())

"""Nothing that is done to parameters, gradients, state, groups and checkpoints crashes, or moves half a step."""

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def fuzz(cases, seed, first=0, **environment):
    command = [sys.executable, "tools/fuzz.py", "--cases", str(cases), "--seed", str(seed), "--first", str(first)]
    result = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    counts = {what: int(count) for count, what in re.findall(r"^ {2} *(\d+) ([a-z' ]+)$", result.stdout, re.MULTILINE)}
    assert f"{cases} cases in" in result.stdout
    return counts


def test_some_cases():
    counts = fuzz(40, 0)
    assert counts["same"] > 10
    assert counts["both refuse"] > 5


@pytest.mark.slow
def test_a_case_that_damages_memory_under_torch_damages_no_other():
    """In case 844 torch writes beyond a storage that was cut short; the damage shows later, wherever it likes."""
    assert sum(fuzz(6, seed=77, first=843).values()) >= 6


DEATHS = """
import os, signal, sys, time
sys.path.insert(0, "tools")
import fuzz

def die(*arguments):
    os.kill(os.getpid(), signal.SIGSEGV)

def judge(case, mark):
    mark("ours")
    if case.number in (2, 4):
        mark("step"), die()
    if case.number == 6:
        mark("mutate"), die()
    mark("theirs")
    if case.number in (8, 9):
        die()
    return "same", ""

fuzz.judge = judge
fuzz.run_ours = lambda case, mark: case.number == 2 and die()
fuzz.run_theirs = lambda case, mark: case.number == 8 and die()
results = []
fuzz._run_all(12, list(range(1, 12)), results, 0.0)
for row in results:
    print(row["number"], row["verdict"], "not again" in row["text"])
"""


def test_who_is_to_blame_for_a_death():
    """torch, where it dies without gradstep, or under the hands of the mutation; else gradstep, until that is shown."""
    result = subprocess.run([sys.executable, "-c", DEATHS], cwd=ROOT, capture_output=True, text=True, check=True)
    rows = dict(line.split(" ", 1) for line in result.stdout.splitlines())
    assert {number: row for number, row in rows.items() if row != "same False"} == {
        "2": "crash False",
        "4": "crash True",
        "6": "torch's own crash False",
        "8": "torch's own crash False",
        "9": "crash True",
    }
    assert len(rows) == 11


@pytest.mark.slow
def test_two_thousand_cases_with_python_s_allocator_on_guard():
    counts = fuzz(2000, 1, PYTHONMALLOC="debug")
    assert counts["same"] > 500
    assert counts["both refuse"] > 250


def test_the_page_names_every_difference(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    differences = importlib.import_module("fuzzing.differences").DIFFERENCES
    page = (ROOT / "docs" / "fuzzing.md").read_text(encoding="utf-8")
    assert page.endswith("".join(f"| {d.name} | {d.reason} |\n" for d in differences))

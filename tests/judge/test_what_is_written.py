"""What is judged is what is written: no bytecode of before, and none left, for a file and for what it imports."""

import os
import sys

import pytest

from gradstep.judge import Status
from gradstep.judge.isolation import check_file
from gradstep.learn.checking import CHALLENGES
from gradstep.learn.checking import judge_file as check_challenge

SECOND = (1_700_000_000, 1_700_000_000)
MINE = """
from helper import moved
from package.names import lr_of

class Mine:
    def __init__(self, params, lr=0.01):
        self.params, self.lr = list(params), lr

    def step(self):
        for p in self.params:
            if p.grad is not None:
                p.data = moved(p.data, lr_of(self), p.grad)
"""


@pytest.fixture(autouse=True)
def bytecode_is_written(monkeypatch):
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    monkeypatch.delenv("PYTHONPYCACHEPREFIX", raising=False)


def write(file, text):
    """Write it in one and the same second, whatever the clock says."""
    file.parent.mkdir(exist_ok=True)
    file.write_text(text)
    os.utime(file, SECOND)


def compile_by_python(folder):
    """Import them once as a user would, which leaves bytecode."""
    code = f"import sys; sys.path.insert(0, {str(folder)!r}); import mine"
    assert os.spawnl(os.P_WAIT, sys.executable, sys.executable, "-c", code) == 0
    assert list(folder.rglob("*.pyc"))


def everything_in(folder):
    return sorted(p for p in folder.rglob("*") if p.is_file())


@pytest.mark.parametrize("stale", [False, True])
def test_a_file_and_its_helpers_are_read_anew(tmp_path, stale):
    write(tmp_path / "mine.py", MINE)
    write(tmp_path / "package" / "__init__.py", "")
    write(tmp_path / "package" / "names.py", "def lr_of(x): return +x.lr")
    write(tmp_path / "helper.py", "def moved(p, lr, g): return p + lr * g")
    if stale:
        compile_by_python(tmp_path)
    before = everything_in(tmp_path)
    target = f"{tmp_path}/mine.py:Mine"
    assert check_file(target, "sgd", kind="numpy").status is Status.FAILED
    write(tmp_path / "helper.py", "def moved(p, lr, g): return p - lr * g")
    assert check_file(target, "sgd", kind="numpy").passed
    write(tmp_path / "package" / "names.py", "def lr_of(x): return -x.lr")
    assert check_file(target, "sgd", kind="numpy").status is Status.FAILED
    write(tmp_path / "mine.py", MINE.replace("lr_of(self)", "+self.lr   "))
    assert check_file(target, "sgd", kind="numpy").passed
    assert everything_in(tmp_path) == before


def test_a_challenge_without_a_rule_too(tmp_path):
    challenge = CHALLENGES["clipping"]
    solution = challenge.lesson.code["numpy"].solution
    wrong = solution.replace("max_norm /", "max_norm *")
    assert len(wrong) == len(solution)
    assert wrong != solution
    file = tmp_path / "mine.py"
    for text, status in ((wrong, Status.FAILED), (solution, Status.PASSED)):
        write(file, text)
        assert check_challenge(challenge, "numpy", file).status is status
    assert everything_in(tmp_path) == [file]


def test_a_file_that_is_no_source_is_refused(tmp_path):
    (tmp_path / "mine.txt").write_text(MINE)
    verdict = check_file(f"{tmp_path}/mine.txt", "sgd")
    assert verdict.status is Status.UNJUDGED
    assert "is no Python file" in verdict.reason

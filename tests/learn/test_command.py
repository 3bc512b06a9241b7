"""The command line, as a learner types it."""

import os
import re
import subprocess
import sys
import time

import pytest
from typer.testing import CliRunner

from gradstep.cli import app
from gradstep.learn.checking import CHALLENGES
from gradstep.learn.course import COURSE_FILE, DAMAGED

SGD = CHALLENGES["sgd"].lesson.code["numpy"]


@pytest.fixture
def learn(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(*words, code=0, **more):
        done = CliRunner().invoke(app, ["learn", *words], env={"NO_COLOR": "1", "TERM": "dumb"}, **more)
        assert done.exit_code == code, done.output
        return done.output

    return run


def test_the_way_through_a_challenge(learn, tmp_path):
    assert learn().rstrip().endswith("Next: gradstep learn start sgd")
    assert not list(tmp_path.iterdir()), "looking writes nothing"
    assert "There is no file" in learn("check", "sgd", code=2)
    started = learn("start", "sgd")
    file = tmp_path / "gradstep-course" / "sgd_numpy.py"
    assert file.read_text("utf-8") == SGD.skeleton
    assert "p ← p − lr · g" in started
    assert "Next: write it, then gradstep learn check sgd" in started
    assert "still something to write" in learn("check", "sgd", code=1)
    assert "once you have tried" in learn("solution", "sgd", code=1)
    file.write_text(SGD.solution.replace("-= self.lr", "+= self.lr"))
    failed = learn("check", "sgd", code=1)
    assert "Not yet: SGD in NumPy" in failed
    assert "correction of the first step the step goes the wrong way; step 1, parameter 1" in " ".join(failed.split())
    assert "climbs" not in failed
    assert failed.rstrip().endswith("Next: gradstep learn hint sgd")
    assert "climbs" in learn("hint", "sgd")
    assert "climbs" in learn("hint", "sgd", "--again")
    assert "climbs" in learn("check", "sgd", "--all", code=1)
    while "These were all hints" not in (last := learn("hint", "sgd")):
        assert last.rstrip().endswith("Next: gradstep learn check sgd")
    assert last.rstrip().endswith("Next: gradstep learn solution sgd")
    assert "p.data -=" not in learn("solution", "sgd", code=1, input="n\n")
    assert "p.data -=" in learn("solution", "sgd", "--yes")
    file.write_text(SGD.solution)
    assert "Passed." in learn("check", "sgd")
    assert "passed, solution seen" in learn()
    asked = learn("quiz", "sgd")
    assert "Along a direction of curvature" not in asked
    assert "--answers" in asked
    answered = learn("quiz", "sgd", "--answers", "b,a,a")
    assert "Along a direction of curvature" in answered
    assert "2 of 3 right" in answered
    assert answered.rstrip().endswith("Next: gradstep learn start momentum")
    assert "2 of 3" in learn()


def test_what_raises_everywhere_is_told_once_and_is_the_hint(learn, tmp_path):
    learn("start", "sgd")
    (tmp_path / "gradstep-course" / "sgd_numpy.py").write_text(SGD.solution.replace("-= self.lr", "-= rate"))
    failed = " ".join(learn("check", "sgd", code=1).split())
    assert failed.count("NameError: name 'rate' is not defined") == 1
    assert "probes fail" in failed
    assert "NameError: name 'rate' is not defined" in " ".join(learn("hint", "sgd").split())


def test_one_probe_fails(learn, tmp_path):
    learn("start", "momentum")
    momentum = CHALLENGES["momentum"].lesson.code["numpy"].solution
    without = momentum.replace("p.grad + self.momentum * self.buffers[i] if self.nesterov else ", "")
    (tmp_path / "gradstep-course" / "momentum_numpy.py").write_text(without)
    assert "1 of 37 probes fails" in learn("check", "momentum", code=1)


def test_another_folder_is_thought_of(learn, tmp_path):
    assert "is yours in another folder (--dir)?" in " ".join(learn("check", "sgd", code=2).split())
    learn("start", "sgd")
    assert "another folder" not in learn("check", "adam", code=2)


def test_after_a_challenge_come_its_own_questions(learn, tmp_path):
    for name in ("sgd", "momentum"):
        learn("start", name)
        (tmp_path / "gradstep-course" / f"{name}_numpy.py").write_text(CHALLENGES[name].lesson.code["numpy"].solution)
    assert learn("check", "momentum").rstrip().endswith("Next: gradstep learn quiz momentum")
    assert learn().rstrip().endswith("Next: gradstep learn check sgd")


def test_the_folder_is_said_wherever_it_is_not_the_usual_one(learn, tmp_path):
    output = learn("start", "adamw", "--torch", "--dir", "my course")
    assert (tmp_path / "my course" / "adamw_torch.py").exists()
    assert "gradstep learn check adamw --dir 'my course'" in output
    assert "--dir stands after the command" in learn("--dir", "x", "start", "sgd", code=2)


def test_an_experiment_leaves_a_picture(learn, tmp_path):
    assert "ravine" in learn("run")
    output = learn("run", "ravine")
    assert (tmp_path / "gradstep-course" / "ravine.svg").stat().st_size > 10_000
    assert "Picture: gradstep-course/ravine.svg" in output
    assert "(done)" in learn()


def test_the_worked_example(learn):
    assert "0.49989995" in learn("step-through")
    two = learn("step-through", "--weight", "1", "--gradient", "0.5", "--gradient", "-1", "--lr", "0.1", "--all")
    assert "Step 2" in two
    assert "0.8999" in two


def test_a_notebook(learn, tmp_path):
    assert "Next: jupyter lab gradstep-course/lion_torch.ipynb" in learn("notebook", "lion", "--torch")
    assert "left as it is" in learn("notebook", "lion", "--torch")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("start", "adma"), "Did you mean 'adam'"),
        (("quiz", "sgd", "--answers", "b,a"), "2 answers"),
        (("quiz", "sgd", "--answers", "b,a,x"), "question 3"),
        (("run", "nothing"), "ravine"),
        (("step-through", "--lr", "-1"), "Invalid learning rate"),
        (("start", "sgd", "--dir", "file"), "file is a file; a course needs a folder"),
    ],
)
def test_what_is_wrong_is_said(learn, tmp_path, words, says):
    (tmp_path / "file").write_text("")
    assert says in " ".join(learn(*words, code=2).split())


def test_a_convention_that_is_none_is_said(learn):
    learn("start", "adamw")
    assert "tinytorch" in learn("check", "adamw", "--convention", "tiny", code=2)


def test_damaged_notes_are_said_once(learn, tmp_path):
    learn("start", "sgd")
    (tmp_path / "gradstep-course" / COURSE_FILE).write_text("{")
    assert DAMAGED in learn("quiz", "sgd")
    assert DAMAGED not in learn()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no pseudo-terminals of POSIX")
def test_on_a_terminal_the_quiz_asks_and_the_example_waits(tmp_path):
    quiz = on_a_terminal(tmp_path, ["quiz", "sgd"], ["x", "b", "a", "c"])
    assert "One of a, b, c, d." in quiz
    assert "3 of 3 right" in quiz
    stopped = on_a_terminal(tmp_path, ["quiz", "sgd"], ["b", "\x04"])  # the end of input, as Ctrl-D types it
    assert "\nStopped; nothing is kept" in stopped
    assert "Aborted" not in stopped
    shown = on_a_terminal(tmp_path, ["step-through"], [""] * 7)
    assert "0.49989995" in shown
    assert "Next: " in shown


def on_a_terminal(folder, words, answers):
    ours, theirs = os.openpty()
    command = [sys.executable, "-m", "gradstep", "learn", *words]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "70"}
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, cwd=folder, env=environment)
    os.close(theirs)
    os.write(ours, "".join(f"{answer}\n" for answer in answers).encode())
    text, end = b"", time.monotonic() + 60
    try:
        while time.monotonic() < end:
            try:
                piece = os.read(ours, 65536)
            except OSError:  # the other end was closed
                break
            if not piece:
                break
            text += piece
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text.decode())
    assert max(len(line.rstrip()) for line in shown.splitlines()) <= 70
    return shown

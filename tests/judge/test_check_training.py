"""``gradstep check --training``: a script run under the watch."""

import json

import pytest
from typer.testing import CliRunner

from gradstep.cli import app
from tests.children import run_module

SCRIPT = """
import sys, torch
from torch import nn
from typer.testing import CliRunner
class Muon(torch.optim.SGD):
    pass
model = nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 4))
optimizer = {optimizer}
for _ in range(int(sys.argv[1])):
    model(torch.randn(5, 8)).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()
print("trained by", sys.argv[2])
{end}
"""


def check(folder, text, *options):
    script = folder / "train.py"
    script.write_text(text, encoding="utf-8")
    return run_module("gradstep", "check", *options, "--training", str(script), "--", "6", "--me")


@pytest.mark.parametrize(
    ("optimizer", "end", "code", "text"),
    [
        ("torch.optim.AdamW(model.parameters())", "", 0, "RIGHT. 4 of 4 parameters got the updates"),
        ("Muon([model[0].weight])", "", 1, "Parameter 0.weight: named Muon, received SGD's update"),
        ("torch.optim.AdamW(model.parameters())", "raise ValueError('oops')", 2, "RIGHT. 4 of 4"),
        ("torch.optim.AdamW(model.parameters())", "raise KeyboardInterrupt", 0, "RIGHT. 4 of 4"),
    ],
)
def test_a_training_script_runs_under_the_watch(tmp_path, optimizer, end, code, text):
    done = check(tmp_path, SCRIPT.format(optimizer=optimizer, end=end))
    assert done.returncode == code, done.stderr
    assert "trained by --me" in done.stdout
    assert text in done.stdout
    assert ("oops" in done.stderr) == ("oops" in end)


def test_stdout_is_the_report_where_json_is_asked_for(tmp_path):
    end = "import os; os.system('echo a child'); os.write(1, b'raw\\n')"
    done = check(tmp_path, SCRIPT.format(optimizer="Muon([model[0].weight])", end=end), "--json")
    report = json.loads(done.stdout)
    assert report["passed"] is False
    assert report["parameters"][0]["received"] == "received SGD's update"
    assert {"trained by --me", "a child", "raw"} <= {*done.stderr.splitlines()}


ADAMW = "torch.optim.AdamW(model.parameters())"


@pytest.mark.parametrize(
    ("end", "code", "text"),
    [
        ("sys.exit(3)", 2, "The script exited with 3."),
        pytest.param("sys.exit(0)", 0, "", marks=pytest.mark.slow),
        pytest.param("import os; os._exit(3)", 2, "The script exited with 3.", marks=pytest.mark.slow),
        ("import os; os._exit(0)", 0, ""),
    ],
)
def test_a_script_that_exits_is_reported(tmp_path, end, code, text):
    done = check(tmp_path, SCRIPT.format(optimizer=ADAMW, end=end))
    assert done.returncode == code, done.stderr
    assert done.stdout.splitlines()[1].endswith(f"are promised, in 6 steps. {text}".strip())
    assert done.stderr == ("the script exited with 3\n" if code else "")


def test_a_process_that_a_script_forks_ends_by_itself(tmp_path):
    end = "import os\nchild = os.fork()\nif not child: os._exit(7)\nprint('child', os.waitpid(child, 0)[1] >> 8)"
    done = check(tmp_path, SCRIPT.format(optimizer=ADAMW, end=end))
    assert done.returncode == 0, done.stderr
    assert "child 7" in done.stdout
    assert done.stdout.count("RIGHT") == 1


def test_a_traceback_begins_in_the_script(tmp_path):
    done = check(tmp_path, "def train():\n    raise ValueError('no data')\ntrain()\n")
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[1].endswith('train.py", line 3, in <module>')
    assert not any(name in done.stderr for name in ("runpy", "typer", "gradstep/"))
    assert done.stdout == "NOTHING SEEN. No optimizer has made a step. The script raised ValueError: no data.\n"


def test_a_script_that_is_no_python_is_reported(tmp_path):
    done = check(tmp_path, "x = 1\nfor\n")
    assert done.returncode == 2
    assert done.stderr.splitlines()[0].endswith('train.py", line 2')
    assert "Traceback" not in done.stderr
    assert "NOTHING SEEN. No optimizer has made a step. The script raised SyntaxError: invalid syntax" in done.stdout


@pytest.mark.parametrize("option", [["--rule", "adamw"], ["--kind", "torch"], ["--strict"], ["--set", "lr=1"]])
def test_options_without_effect_are_refused(tmp_path, option):
    script = tmp_path / "train.py"
    script.write_text("", encoding="utf-8")
    done = CliRunner().invoke(app, ["check", *option, "--training", str(script)])
    assert done.exit_code == 2
    assert f"{option[0]} has no effect with --training" in " ".join(done.output.replace("│", "").split())
    done = CliRunner().invoke(app, ["check", "mine.py:Mine", "--rule", "adamw", "--steps", "3"])
    assert "--steps is for --training" in done.output


def test_the_text_that_a_script_exits_with_is_printed(tmp_path, capsys):
    script = tmp_path / "train.py"
    script.write_text("import sys; sys.exit('no data in ./data')", encoding="utf-8")
    done = CliRunner().invoke(app, ["check", "--training", str(script)])
    assert done.exit_code == 2
    assert "no data in ./data" in done.stderr

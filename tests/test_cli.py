"""The command line, as a person types it."""

import pytest
from typer.testing import CliRunner

from gradstep import __version__
from gradstep.cli import app
from gradstep.lab.results import RESULTS_FILE
from gradstep.lab.session import Race


def gradstep(*words: str):
    return CliRunner().invoke(app, list(words), env={"COLUMNS": "160", "NO_COLOR": "1", "TERM": "dumb"})


def test_race_and_report(tmp_path):
    raced = gradstep("race", "ravine", "-o", "adamw,sgd:lr=0.01", "--steps", "4", "--out", str(tmp_path))
    assert raced.exit_code == 0, raced.output
    (folder,) = tmp_path.iterdir()
    assert str(folder / "report.html") in raced.output
    assert "SGD lr=0.01" in raced.output
    assert "default learning rate" not in raced.output
    mine = tmp_path / "mine.py"
    mine.write_text(
        "import dataclasses\n"
        "from gradstep.rules import AdamW\n"
        "@dataclasses.dataclass(frozen=True)\nclass Mine(AdamW): ...\n"
    )
    default = gradstep("race", "ravine", "-o", f"{mine}:Mine", "--steps", "4", "--out", str(tmp_path / "more"))
    assert "ravine: mine.py:Mine takes its own default learning rate, 0.001" in default.output
    again = gradstep("report", str(folder))
    assert again.exit_code == 0
    assert "Report:" in again.output


def test_the_list_names_tasks_and_optimizers(tmp_path):
    listed = gradstep("race", "--list", "--out", str(tmp_path / "runs"))
    assert listed.exit_code == 0
    for word in ("digits", "text", "rosenbrock", "ravine", "adamw", "adafactor", "lion", "torch.adamw"):
        assert word in listed.output
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["digit"], "Did you mean 'digits'"),
        (["-o", "lyon"], "Did you mean 'lion'"),
        (["-o", "adamw:lr=-1"], "Invalid learning rate"),
        (["-o", "adamw,lr=0.1"], "adamw:lr=0.1"),
        (["--steps", "0"], "'--steps'"),
        (["--seeds", "0"], "'--seeds'"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_written(tmp_path, words, says):
    refused = gradstep("race", *words, "--out", str(tmp_path / "runs"))
    assert refused.exit_code == 2
    assert says in refused.output
    assert not (tmp_path / "runs").exists()


def test_a_folder_without_results_is_refused(tmp_path):
    refused = gradstep("report", str(tmp_path))
    assert refused.exit_code == 2
    assert RESULTS_FILE in refused.output


def test_ctrl_c_ends_with_130_and_says_what_is_kept(tmp_path, monkeypatch):
    def interrupted(self, listen) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Race, "run", interrupted)
    stopped = gradstep("race", "ravine", "--out", str(tmp_path))
    assert stopped.exit_code == 130
    assert "Interrupted" in stopped.output


def test_a_folder_that_cannot_be_made_is_said_in_a_line(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    raced = gradstep("race", "ravine", "-o", "adamw", "--steps", "2", "--out", str(tmp_path / "file" / "runs"))
    assert raced.exit_code == 1
    assert "Cannot write the results" in raced.output
    assert "--out" in raced.output


def test_a_kernel_is_printed_for_both_targets():
    ptx = gradstep(
        "kernel", "adamw", "--state", "8bit", "--dtype", "bf16", "--rounding", "stochastic", "--target", "cuda"
    )
    assert ptx.exit_code == 0, ptx.output
    assert ".target sm_80" in ptx.output
    assert "redux.sync.max" in ptx.output  # the exchange of a block's largest value
    first, second = ptx.output.splitlines()[:2]
    assert first.startswith(
        f"// gradstep {__version__}: one step of AdamW(maximize=False, lr=0.001, betas=(0.9, 0.999)"
    )
    assert second == "// bfloat16 parameters, rounding stochastic; state: exp_avg 8bit, exp_avg_sq 8bit"
    assembly = gradstep("kernel", "sgd:momentum=0.9")
    assert assembly.exit_code == 0
    assert "task:" in assembly.output
    assert assembly.output.splitlines()[1] == "# float32 parameters, rounding nearest; state: momentum_buffer float32"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["adafactor", "--target", "cuda"], "Adafactor looks at whole tensors"),
        (["adafactor"], "Adafactor looks at whole tensors"),
        (["adam2"], "Unknown optimizer: 'adam2'. Did you mean 'adam'"),
        (["adamw_8bit"], "give the rule alone here, 'adamw'"),
        (["adamw:foo=1"], "AdamW has no setting 'foo' (it has lr, betas"),
        (["adamw", "--rounding", "24bit", "--dtype", "float16"], "is for bfloat16 parameters"),
        (["adamw", "--dtype", "float64", "--state", "8bit"], "float64 keeps float64 state"),
        (["adamw", "--target", "tpu"], "'cpu', 'cuda'"),
    ],
)
def test_a_kernel_that_does_not_exist_is_refused(words, says):
    refused = gradstep("kernel", *words)
    assert refused.exit_code == 2
    assert says in refused.output.replace("\n", " ")

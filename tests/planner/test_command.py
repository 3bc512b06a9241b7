"""``gradstep plan``, as a person types it."""

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from gradstep.cli import app


def gradstep(*words: str):
    return CliRunner().invoke(app, ["plan", *words], env={"COLUMNS": "160", "NO_COLOR": "1", "TERM": "dumb"})


def test_the_table_marks_what_is_recommended():
    done = gradstep("3B", "--budget", "35GB")
    assert done.exit_code == 0, done.output
    (marked,) = [line for line in done.output.splitlines() if line.startswith("▶")]
    assert " ".join(marked.split()) == "▶ float32 – 8bit – – 12.0 GB 12.0 GB 6.0 GB 0 B 30.0 GB – yes"
    first = done.output.splitlines()
    assert first[0].startswith("3B: 3,000,000,000 parameters with AdamW keep 48.0 GB in float32 weights, float32 state")
    assert "Planned for the CPU of this machine with 35.0 GB (as given); for a GPU, add --gpus 1" in first[1]
    pasted = [line.strip() for line in first].index(
        'optimizer = gradstep.AdamW(model.named_parameters(), model=model, state="8bit")'
    )
    assert pasted < first.index(marked), "the line to paste stands before the table"
    assert "Shown are 18 of 36 combinations" in done.output
    every = gradstep("3B", "--budget", "35GB", "--all").output.splitlines()
    assert len([line for line in every if line.rstrip().endswith(("yes", "no"))]) == 36


def test_gib_is_answered_in_gib():
    done = gradstep("llama-3-8b", "--budget", "24GiB", "--gpus", "8")
    assert "Planned for each of 8 GPUs" in done.output
    assert "24.00 GiB (as given)" in done.output
    assert " GB" not in done.output


def test_options_reach_the_plan():
    done = gradstep(
        "gpt2", "-o", "sgd:momentum=0.9,nesterov=True", "--budget", "2GB", "--params", "bfloat16",
        "--rounding", "kahan", "--state", "8bit", "--gradients", "float32", "--resident", "--gpus", "2",
        "--sharding", "zero1", "--activations", "1MB", "--page-budget", "1MB", "--engine", "compiled", "--json",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    (plan,) = json.loads(done.output)["plans"]
    rows = {row["name"]: row["nbytes"] for row in plan["rows"]}
    assert rows["gradients"] == 2 * rows["weights"] == 4 * 124_439_808
    assert (
        0 <= rows["kahan_comp"] - 124_439_808 <= 2 * 768
    )  # whole parameters are dealt out: half, and part of a vector
    assert rows["activations"] == 10**6
    assert plan["optimizer"] == "SGD"


def test_copies_of_shards_are_compared():
    done = gradstep("3B", "--ranks", "8", "--replicas", "2", "--budget", "14GB", "--params", "float32", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.output)
    assert {plan["sharding"]: plan["replicas"] for plan in found["plans"]} == {
        "ddp": 1, "zero1": 1, "zero2": 1, "hsdp": 2, "fsdp2": 1,
    }  # fmt: skip
    best = found["plans"][found["recommended"]]
    assert (best["sharding"], best["state"]) == ("hsdp", "float32")
    alone = gradstep("3B", "--ranks", "8", "--replicas", "2", "--sharding", "hsdp", "--budget", "14GB")
    assert "fully_shard(model, mesh=mesh)" in alone.output


def test_frozen_or_not_the_command_needs_no_torch():
    code = (
        "import sys; from gradstep.cli import app; app(['plan', 'gpt2', '--budget', '4GB'], standalone_mode=False); "
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.rstrip().endswith("False")


@pytest.mark.parametrize("ending", [".html", ".svg"])
def test_the_chart_is_drawn(tmp_path, ending):
    file = tmp_path / "new" / f"plan{ending}"
    done = gradstep("llama-3.2-1b", "--budget", "24GB", "--gpus", "1", "--chart", str(file))
    assert done.exit_code == 0, done.output
    drawn = file.read_text(encoding="utf-8")
    for word in ("budget 24.0 GB", "recommended", "bfloat16 kahan", "on the device"):
        assert word in drawn
    assert f"Chart: {file}" in done.output


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["gtp2"], "Did you mean 'gpt2'"),
        (["3B", "--budget", "lots"], "Invalid size: 'lots'"),
        (["3B", "--gpus", "8"], "the memory of a GPU is not known here"),
        (["3B", "-o", "adamw,lion"], "Plan one optimizer at a time"),
        (["3B", "-o", "adamw:lr=-1"], "Invalid learning rate"),
        (["3B", "-o", "adamw:momentum=0.9"], "momentum"),
        (["3B", "--chart", "plan.doc"], "needs an ending that says its format"),
    ],
)
def test_what_is_wrong_is_said_before_anything_else(words, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused = gradstep(*words)
    assert refused.exit_code == 2
    assert says in " ".join(refused.output.replace("│", " ").split())
    assert not list(tmp_path.iterdir())

"""Rules of one's own, in a file: raced, checked and planned for as built-in ones are."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

import gradstep
from gradstep.cli import app
from gradstep.lab.contenders import class_of, make_contender
from gradstep.lab.session import plan
from gradstep.lab.specs import OptimizerSpec, parse_specs
from gradstep.lab.tasks import TASKS
from gradstep.variants import rule_in_file

RULES = """
from dataclasses import dataclass
from gradstep import Rule, Slot
from gradstep.rules.ops import rms, sign, where
from gradstep.rules.settings import learning_rate

@dataclass(frozen=True)
class Signum(Rule):
    lr: float = learning_rate(1e-3)
    def slots(self, ndim): return (Slot("exp_avg"),)
    def coefficients(self, step, **scalars): return {"lr": self.lr, "b": 0.9, "r": 0.1}
    @staticmethod
    def update(p, g, s, c):
        s.exp_avg = c.b * s.exp_avg + c.r * g
        return p - c.lr * sign(s.exp_avg)

@dataclass(frozen=True)
class Masked(Rule):
    lr: float = learning_rate(1e-3)
    sees = "tensor"
    def slots(self, ndim): return ()
    def coefficients(self, step, **scalars): return {"lr": self.lr}
    @staticmethod
    def update(p, g, s, c):
        mask = where(g > 0, g * 0 + 1, 0.0)
        return p - c.lr * g * mask / (rms(mask) + 1e-3)
"""


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    file = tmp_path / "mine.py"
    file.write_text(RULES)
    return file


def run(*words: str):
    return CliRunner().invoke(app, list(words), env={"COLUMNS": "160", "NO_COLOR": "1", "TERM": "dumb"})


def test_the_grammar_takes_files_and_words_that_begin_with_digits():
    assert parse_specs("adamw:state=8bit,./My dir/mine.py:Signum:lr=0.1,engine=eager,mine.py") == (
        OptimizerSpec("adamw", (("state", "8bit"),)),
        OptimizerSpec("./My dir/mine.py:Signum", (("lr", 0.1), ("engine", "eager"))),
        OptimizerSpec("mine.py"),
    )


def test_own_rules_race_beside_built_in_ones(mine, tmp_path):
    words = ["race", "rosenbrock", "--steps", "3", "--seeds", "1", "--out", str(tmp_path / "runs")]
    raced = run(*words, "-o", f"adamw:state=8bit,{mine}:Signum:lr=0.01,{mine}:Masked,adamw8bit")
    assert raced.exit_code == 0, raced.output
    for label in ("AdamW state=8bit", "mine.py:Signum lr=0.01", "mine.py:Masked", "AdamW8bit"):
        assert label in raced.output


def test_a_name_of_hugging_face_has_the_rate_of_its_rule():
    (spec,) = parse_specs("paged_adamw_8bit")
    task = TASKS["digits"]
    assert dict(make_contender(spec, task).settings)["lr"] == task.learning_rate("adamw")
    assert class_of("paged_adamw_8bit") is gradstep.PagedAdamW8bit


@pytest.mark.parametrize("name", ["Signum", pytest.param("Masked", marks=pytest.mark.slow)])
def test_a_rule_in_a_file_passes_its_own_check(mine, name):
    checked = run("check", f"{mine}:{name}", "--rule", f"{mine}:{name}")
    assert checked.exit_code == 0, checked.output


@pytest.mark.slow
def test_another_rule_does_not_pass(mine):
    checked = run("check", f"{mine}:Signum", "--rule", "adamw")
    assert checked.exit_code == 1, checked.output
    assert run("check", f"{mine}:Signum", "--rule", f"{mine}:Sinum").exit_code == 2


def test_a_plan_counts_the_state_of_a_rule_in_a_file(mine):
    assert gradstep.plan("3B", optimizer=f"{mine}:Signum").of("state") == 12_000_000_004


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("mine.py", "defines the rules Signum, Masked"),
        ("mine.py:Sinum", "No rule 'Sinum'"),
        ("nothing.py:Signum", "there is no file"),
        ("broken.py:Signum", "broken.py does not import: ZeroDivisionError"),
        ("half.py:Half", "is not finished: write"),
    ],
)
def test_what_is_no_rule_is_refused_by_name(mine, text, says):
    (mine.parent / "broken.py").write_text("1 / 0\n")
    (mine.parent / "half.py").write_text("from gradstep import Rule\nclass Half(Rule): pass\n")
    with pytest.raises(ValueError, match=r"rule|file|import") as caught:
        rule_in_file(str(mine.parent / text))
    assert says in str(caught.value)


def test_contenders_of_one_label_are_refused(mine, tmp_path):
    other = tmp_path / "other" / "mine.py"
    other.parent.mkdir()
    other.write_text(RULES)
    with pytest.raises(ValueError, match=r"Several contenders would be called 'mine\.py:Signum'"):
        plan(["ravine"], f"{mine}:Signum,{other}:Signum")

"""Files that misbehave: each ends in words, and nothing of theirs goes on running."""

import time

import pytest

from gradstep.learn import checking as module
from gradstep.learn.checking import CHALLENGES, judge_file

FILES = {
    "does not import": ("schedule", "import nothing_like_it", "does not import"),
    "not there": ("schedule", "x = 1", "warmup_cosine"),
    "ends": ("clipping", "import os\ndef clip_grad_norm(params, max_norm):\n    os._exit(0)\n", "ended its process"),
}


@pytest.mark.parametrize(("name", "source", "says"), FILES.values(), ids=FILES)
def test_it_ends_in_words(tmp_path, name, source, says):
    file = tmp_path / "mine.py"
    file.write_text(source)
    verdict = judge_file(CHALLENGES[name], "numpy", file)
    assert verdict.exit_code == 2
    assert says in verdict.reason


def test_a_loop_without_end(tmp_path, monkeypatch):
    file = tmp_path / "mine.py"
    file.write_text("while True:\n    pass\n")
    monkeypatch.setattr(module, "EXAM_TIME_LIMIT", 0.5)
    started = time.monotonic()
    verdict = judge_file(CHALLENGES["schedule"], "numpy", file)
    assert "did not end within 0.5 s" in verdict.reason
    assert time.monotonic() - started < 20


def test_exits_and_errors_are_failures_of_the_probe(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("def clip_grad_norm(params, max_norm):\n    raise SystemExit(3)\n")
    verdict = judge_file(CHALLENGES["clipping"], "numpy", file)
    assert verdict.exit_code == 1
    assert "SystemExit" in verdict.failed()[0].detail


def test_a_convention_that_is_none(tmp_path):
    with pytest.raises(ValueError, match="tinytorch"):
        judge_file(CHALLENGES["adamw"], "numpy", tmp_path / "mine.py", convention="tiny")

"""SIGKILL at any moment never leaves a file that opens and is torn."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(os.name == "nt", reason="kills a forked process")


def killed(folder: Path, rounds: int, *options: str) -> dict[str, int]:
    script = Path(__file__).with_name("kill_pages.py")
    command = [sys.executable, str(script), str(folder / "state.pages"), str(rounds), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr
    counts: dict[str, int] = json.loads(done.stdout)
    print(counts)
    return counts


def test_killed_in_mid_step(tmp_path):
    counts = killed(tmp_path, 30)
    assert counts["torn"] == 0
    assert counts["refused"] > 5


@pytest.mark.slow
def test_killed_in_mid_step_many_times(tmp_path):
    counts = killed(tmp_path, 300)
    assert counts["torn"] == 0
    assert counts["refused"] > 100
    assert counts["good"] > 5


def test_without_the_marks_files_are_torn(tmp_path):
    assert killed(tmp_path, 20, "unmarked")["torn"] > 3

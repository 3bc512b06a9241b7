"""The walk through the course that the documentation shows: complete, and as any terminal has it."""

import getpass
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from gradstep.learn.checking import CHALLENGES
from gradstep.learn.experiments import EXPERIMENTS

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "course-walk.md"


def test_it_goes_all_the_way():
    text = PAGE.read_text("utf-8")
    for name, challenge in CHALLENGES.items():
        assert text.count(f"$ gradstep learn start {name}\n") == 1
        assert text.count(f"$ gradstep learn start {name} --torch\n") == 1
        for framework in ("NumPy", "PyTorch"):
            assert f"Not yet: {challenge.entry} in {framework}" in text
        passed = re.findall(rf"\$ gradstep learn check {name}(?: .*)?\nPassed\.", text)
        assert len(passed) >= 2
        assert f"gradstep learn quiz {name} --answers" in text or f"gradstep learn quiz {name}\n" in text
    for name in EXPERIMENTS:
        assert f"$ gradstep learn run {name}\n" in text
    assert "0.49989995" in text


def test_it_names_no_machine():
    text = PAGE.read_text("utf-8")
    home = [str(Path.home()), str(ROOT), socket.gethostname()]
    assert not [word for word in [*home, f"/{getpass.getuser()}/", "/tmp/", "Traceback"] if word in text]


def test_its_pictures_are_there():
    pictures = re.findall(r"\]\((images/\S+)\)", PAGE.read_text("utf-8"))
    assert len(pictures) == len(EXPERIMENTS)
    assert all(0 < (PAGE.parent / picture).stat().st_size < 300_000 for picture in pictures)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no pseudo-terminals of POSIX")
def test_the_terminal_shows_what_the_page_shows(tmp_path):
    """Its first part; `python tools/walk.py docs/course-walk.md --check` walks all of it."""
    first, _, _ = PAGE.read_text("utf-8").partition("## Momentum")
    page = tmp_path / "page.md"
    page.write_text(first, encoding="utf-8")
    command = [sys.executable, str(ROOT / "tools" / "walk.py"), str(page), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr

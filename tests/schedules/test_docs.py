"""docs/schedules.md runs as printed, and its picture shows every schedule."""

import doctest
import runpy
from pathlib import Path

from gradstep import schedules

DOCS = Path(__file__).parents[2] / "docs"


def test_the_page_runs():
    result = doctest.testfile(str(DOCS / "schedules.md"), module_relative=False)
    assert result.attempted > 10
    assert result.failed == 0


def test_every_constructor_is_in_the_picture():
    drawn = " ".join(runpy.run_path(str(DOCS / "draw_schedules.py"))["PICTURES"])
    assert [name for name in schedules.__all__ if name.islower() and name not in drawn] == []


def test_every_constructor_is_on_the_page():
    page = (DOCS / "schedules.md").read_text(encoding="utf-8")
    assert [name for name in schedules.__all__ if name.islower() and f"{name}(" not in page] == []

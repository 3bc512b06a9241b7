"""docs/doctor.md runs as printed, and names every cause."""

import doctest
from pathlib import Path

from gradstep.monitor.doctor.rules import CAUSE_FINDERS

PAGE = Path(__file__).parents[2] / "docs" / "doctor.md"


def test_the_page_runs():
    result = doctest.testfile(str(PAGE), module_relative=False)
    assert result.attempted > 8
    assert result.failed == 0


def test_every_cause_is_on_the_page():
    page = PAGE.read_text(encoding="utf-8")
    assert [rule.cause.name for rule in CAUSE_FINDERS if f"| `{rule.cause.name}` |" not in page] == []

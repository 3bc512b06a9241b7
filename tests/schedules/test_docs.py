"""docs/schedules.md runs as printed, and its picture shows every schedule."""

import doctest
import inspect
from pathlib import Path

from gradstep import schedules
from gradstep.schedules import gallery

DOCS = Path(__file__).parents[2] / "docs"


def test_the_page_runs():
    result = doctest.testfile(str(DOCS / "schedules.md"), module_relative=False)
    assert result.attempted > 10
    assert result.failed == 0


def test_every_constructor_is_in_the_picture():
    drawn = inspect.getsource(gallery)
    assert [name for name in schedules.__all__ if name.islower() and f"{name}(" not in drawn] == []
    picture = (DOCS / "images" / "schedules.svg").read_text(encoding="utf-8")
    assert [name for name in gallery.GALLERY_NAMES if f">{name}<" not in picture] == []


def test_every_constructor_is_on_the_page():
    page = (DOCS / "schedules.md").read_text(encoding="utf-8")
    assert [name for name in schedules.__all__ if name.islower() and f"{name}(" not in page] == []

"""What the page about the NumPy front prints is what runs."""

import doctest
from pathlib import Path

PAGE = Path(__file__).parent.parent.parent / "docs" / "numpy.md"


def test_page():
    failed, tried = doctest.testfile(str(PAGE), module_relative=False, encoding="utf-8")
    assert tried > 20
    assert failed == 0

"""The types that editors see are those of the rules."""

import runpy
from pathlib import Path

STUBS = Path(__file__).parents[2] / "tools" / "stubs.py"


def test_the_stub_files_are_what_the_rules_say():
    for path, text in runpy.run_path(str(STUBS))["texts"]().items():
        assert path.read_text(encoding="utf-8") == text, "run `make stubs`"

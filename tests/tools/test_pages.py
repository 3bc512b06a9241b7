"""The table and the picture of the optimizers are those of the rules."""

import runpy
from pathlib import Path

PAGES = Path(__file__).parents[2] / "tools" / "pages.py"


def test_pages_are_what_the_rules_say():
    for path, text in runpy.run_path(str(PAGES))["texts"]().items():
        assert path.read_text(encoding="utf-8") == text, "run `make pages`"

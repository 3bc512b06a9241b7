"""docs/state_precision.md and docs/rounding.md run as printed, and show pictures that exist."""

import doctest
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("page", ["state_precision", "rounding"])
def test_the_page_runs(page):
    result = doctest.testfile(str(DOCS / f"{page}.md"), module_relative=False)
    assert result.attempted > 4
    assert result.failed == 0


@pytest.mark.parametrize("page", ["state_precision", "rounding"])
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", (DOCS / f"{page}.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    links = [link for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
    assert links
    pages = [link.partition("#")[0] or f"{page}.md" for link in links]  # the site's build looks for the headings
    assert [link for link in pages if not (DOCS / link).exists()] == []

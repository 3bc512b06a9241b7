"""Write tutorials of docs/ as Jupyter notebooks into build/notebooks/: `make notebooks`.

The text and the doctests of a page become cells; where the page points to its example, the example's functions follow.
"""

from __future__ import annotations

import ast
import doctest
import json
import re
import sys
from itertools import groupby
from pathlib import Path
from typing import Any

from gradstep.learn.notebook import Cell, code_cell, make_notebook, text_cell
from tools.metadata import description

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "build" / "notebooks"
TUTORIALS = {"own_rule": None, "from_torch": "migrate", "little_memory": "fine_tune"}
"""Pages of docs/, and the example of each."""

DOCTEST = re.compile(r"^```pycon\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PARAGRAPH = r".*?\n\n(?:```console\n.*?```\n\n)?"
"""The rest of a paragraph, with the commands that follow it."""


def tutorial(page: str) -> dict[str, Any]:
    """Return a page of docs/ as a notebook."""
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    example = TUTORIALS[page]
    cells: list[Cell] = []
    for number, piece in enumerate(DOCTEST.split(text)):
        if number % 2:
            cells += doctest_cells(piece)
        elif example is not None and (link := f"(../examples/{example}.py)") in piece:
            _, end = re.split(f"({re.escape(link)}{PARAGRAPH})", piece, maxsplit=1, flags=re.DOTALL)[::2]
            cells += text_cells(piece[: len(piece) - len(end)])
            cells += example_cells(ROOT / "examples" / f"{example}.py")
            cells += text_cells(end)
        else:
            cells += text_cells(piece)
    return make_notebook(page.replace("_", "-"), cells)


def text_cells(text: str) -> list[Cell]:
    """Return text as a cell, its links as plain text, since files of the repository are not beside the notebook."""
    shown = description(text, "", "").strip()
    return [text_cell(shown)] if shown else []


def doctest_cells(text: str) -> list[Cell]:
    """Return the code of a doctest; a cell ends where the doctest shows a result."""
    cells: list[Cell] = []
    lines: list[str] = []
    for example in doctest.DocTestParser().get_examples(text):
        source = re.sub(r"  # doctest:.*", "", example.source).rstrip("\n")
        lines += [""] * (bool(lines) and source.startswith(("@", "class ", "def "))) + [source]
        if example.want:
            cells.append(code_cell("\n".join(lines)))
            lines = []
    return [*cells, code_cell("\n".join(lines))] if lines else cells


def example_cells(file: Path) -> list[Cell]:
    """Return a cell for each function and class of an example, one for the lines between them, and a call of main."""
    source = file.read_text(encoding="utf-8")
    lines, body = source.splitlines(), ast.parse(source).body[1:]  # the docstring says how the file is started
    main = next(node for node in body if isinstance(node, ast.If))
    cells = []
    before: int | None = body[0].lineno - 1
    for _, group in groupby(
        body[: body.index(main)],
        key=lambda node: node.lineno if isinstance(node, (ast.FunctionDef, ast.ClassDef)) else None,
    ):
        end = list(group)[-1].end_lineno
        cells.append(code_cell("\n".join(lines[before:end]).strip("\n")))
        before = end
    return [*cells, code_cell("main()")]


def main() -> int:
    """Write every tutorial; return 0."""
    OUT.mkdir(parents=True, exist_ok=True)
    for page in TUTORIALS:
        file = OUT / f"{page}.ipynb"
        file.write_text(json.dumps(tutorial(page), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        print(file)
    return 0


if __name__ == "__main__":
    sys.exit(main())

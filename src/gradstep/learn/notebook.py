"""Write a challenge as a Jupyter notebook (nbformat 4.5), from the same lesson."""

import json
from pathlib import Path
from typing import Any

from gradstep.learn.checking import Challenge
from gradstep.learn.lesson import LETTERS, SECTIONS, Framework, Question, create_file

_ABOUT: dict[str, tuple[str, ...]] = {
    "momentum": ("ravine",),
    "rmsprop": ("memory",),
    "adam": ("bias-correction",),
    "adamw": ("decay", "resume"),
    "lion": ("memory",),
}
"""Experiments of each challenge."""

_STEP = """from gradstep.learn.steps import step_through

for line in step_through():
    print(line)
    print("   ", line.why)"""

Cell = dict[str, Any]


def make_challenge(challenge: Challenge, framework: Framework) -> dict[str, Any]:
    """Return the notebook of a challenge: text, skeleton, check, hints to open, experiments and questions.

    It does not contain the solution.
    """
    lesson = challenge.lesson
    check = f'from gradstep.learn import check\n\nprint(check("{challenge.name}", {challenge.entry}, "{framework}"))'
    cells = [
        text_cell(f"# {lesson.title}\n\n{lesson.text}"),
        text_cell(f"## Your turn, in {SECTIONS[framework]}"),
        code_cell(lesson.code[framework].skeleton.rstrip("\n")),
        text_cell("Run the cell above, then this one. It tells what is wrong and where to look."),
        code_cell(check),
        text_cell("## Hints\n\n" + "\n\n".join(map(_hint, range(1, 1 + len(lesson.hints)), lesson.hints))),
    ]
    if challenge.name == "adamw":
        cells += [text_cell("## AdamW's step, line by line"), code_cell(_STEP)]
    for name in _ABOUT.get(challenge.name, ()):
        cells += [text_cell(_experiment_text(name)), code_cell(_experiment_code(name))]
    cells.append(text_cell("## Questions\n\n" + "\n\n".join(map(_question, lesson.questions))))
    return make_notebook(challenge.name, cells)


def write(challenge: Challenge, framework: Framework, folder: Path) -> tuple[Path, bool]:
    """Write the notebook unless it exists; return its file and whether it was written."""
    content = json.dumps(make_challenge(challenge, framework), indent=1, ensure_ascii=False)
    file = folder / f"{challenge.name}_{framework}.ipynb"
    folder.mkdir(parents=True, exist_ok=True)
    return file, create_file(file, content + "\n")


def text_cell(source: str) -> Cell:
    """Return a cell of Markdown."""
    return {"cell_type": "markdown", "metadata": {}, "source": source}


def code_cell(source: str) -> Cell:
    """Return a cell of Python that has not run."""
    return {"cell_type": "code", "metadata": {}, "source": source, "execution_count": None, "outputs": []}


def make_notebook(name: str, cells: list[Cell]) -> dict[str, Any]:
    """Return a notebook of these cells; their identifiers begin with ``name``."""
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return {
        "nbformat": 4,
        "nbformat_minor": 5,
        "metadata": {"kernelspec": kernel},
        "cells": [{**cell, "id": f"{name}-{number}"} for number, cell in enumerate(cells)],
    }


def _hint(number: int, text: str) -> str:
    return f"<details><summary>Hint {number}</summary>\n\n{text}\n\n</details>"


def _question(question: Question) -> str:
    options = "\n".join(f"- ({letter}) {text}" for letter, text in zip(LETTERS, question.options))
    answer = f"<details><summary>Answer</summary>\n\n**({question.letter})** {question.why}\n\n</details>"
    return f"**{question.text}**\n\n{options}\n\n{answer}"


def _experiment_text(name: str) -> str:
    from gradstep.learn.experiments import EXPERIMENTS

    return f"## {EXPERIMENTS[name].title}\n\n{EXPERIMENTS[name].question}"


def _experiment_code(name: str) -> str:
    return (
        "from gradstep.learn.experiments import EXPERIMENTS\n\n"
        f'finding = EXPERIMENTS["{name}"].run()\n'
        "print(*finding.lines, sep='\\n')\n"
        "finding"
    )

"""A lesson read from its Markdown file: text, code, hints and questions in one place.

A file of ``content/`` has a title, the text, and four sections: ``## NumPy`` and ``## PyTorch`` (one block of code
each), ``## Hints`` (a numbered list) and ``## Questions`` (``###`` a question, ``- [x]`` its options, ``>`` why).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal, TypeAlias, final, get_args

Framework: TypeAlias = Literal["numpy", "torch"]

FRAMEWORKS: tuple[Framework, ...] = get_args(Framework)

SECTIONS: Mapping[Framework, str] = {"numpy": "NumPy", "torch": "PyTorch"}
"""What a framework is called in the text."""

UNWRITTEN = "your turn"
"""What a skeleton raises where something is left to write."""

_SOLUTION = re.compile(
    r"^(?P<indent> *)### BEGIN SOLUTION: (?P<task>.*)\n(?P<body>(?:.*\n)*?) *### END SOLUTION\n", re.MULTILINE
)


@final
@dataclass(frozen=True)
class Code:
    r"""A finished program whose solutions are marked, so that the skeleton is the same file without them.

    >>> code = Code("def f(x):\n    ### BEGIN SOLUTION: double x\n    return 2 * x\n    ### END SOLUTION\n")
    >>> print(code.solution, end="")
    def f(x):
        return 2 * x
    >>> print(code.skeleton, end="")
    def f(x):
        # Your turn: double x.
        raise NotImplementedError("your turn")
    """

    source: str

    @property
    def solution(self) -> str:
        """The program without the marks."""
        return _SOLUTION.sub(lambda found: found["body"], self.source)

    @property
    def skeleton(self) -> str:
        """The program without what the learner shall write."""
        return _SOLUTION.sub(_blank, self.source)


def _blank(found: re.Match[str]) -> str:
    # The learner's file must be valid Python before it is finished, and say where it is not: this is its content.
    indent = found["indent"]
    return f'{indent}# Your turn: {found["task"]}.\n{indent}raise NotImplementedError("{UNWRITTEN}")\n'


@final
@dataclass(frozen=True)
class Question:
    """A multiple-choice question.

    Attributes:
        text: the question.
        options: what there is to choose from.
        right: the index of the one that is right.
        why: the explanation, which says why the others are not.
    """

    text: str
    options: tuple[str, ...]
    right: int
    why: str

    @property
    def letters(self) -> str:
        """What a learner may type."""
        return LETTERS[: len(self.options)]

    @property
    def letter(self) -> str:
        """The right one of them."""
        return LETTERS[self.right]


LETTERS = "abcdefgh"


@final
@dataclass(frozen=True)
class Lesson:
    """Everything that a challenge says and asks.

    Attributes:
        title: in a few words.
        text: the mathematics, in Markdown.
        code: the program to write, for each framework.
        hints: from a nudge to nearly everything.
        questions: for afterwards.
    """

    title: str
    text: str
    code: Mapping[Framework, Code]
    hints: tuple[str, ...]
    questions: tuple[Question, ...]


@cache
def lesson(name: str) -> Lesson:
    """The lesson of a challenge.

    >>> lesson("adamw").title
    'AdamW: decay that acts on the weight'
    """
    return parse((files("gradstep.learn") / "content" / f"{name}.md").read_text("utf-8"))


def parse(markdown: str) -> Lesson:
    """A lesson from its Markdown.

    Raises:
        ValueError: a section is missing, or a question has not exactly one right option.
    """
    sections = dict(_sections(markdown, "## "))
    wanted = {"", *SECTIONS.values(), "Hints", "Questions"}
    if sections.keys() != wanted:
        raise ValueError(f"a lesson has the sections {sorted(wanted)}, not {sorted(sections)}")
    title, text = sections[""].removeprefix("# ").split("\n", 1)
    hints = re.split(r"^\d+\. ", sections["Hints"], flags=re.MULTILINE)[1:]
    return Lesson(
        title,
        text.strip(),
        {framework: Code(_strip_fence(sections[section])) for framework, section in SECTIONS.items()},
        tuple(_one_line(hint) for hint in hints),
        tuple(_question(*parts) for parts in _sections(sections["Questions"], "### ") if parts[0]),
    )


def _sections(markdown: str, mark: str) -> Iterator[tuple[str, str]]:
    """The heading and the body of each section; what comes before the first has the heading ""."""
    heading, body, fenced = "", list[str](), False
    for line in markdown.splitlines():
        fenced ^= line.startswith("```")
        if line.startswith(mark) and not fenced:
            yield heading, "\n".join(body).strip()
            heading, body = line.removeprefix(mark).strip(), []
        else:
            body.append(line)
    yield heading, "\n".join(body).strip()


def _strip_fence(section: str) -> str:
    return section.removeprefix("```python\n").removesuffix("```")


def _question(text: str, body: str) -> Question:
    options = re.findall(r"^- \[([ x])\] (.*)$", body, flags=re.MULTILINE)
    right = [i for i, (mark, _) in enumerate(options) if mark == "x"]
    why = _one_line("\n".join(re.findall(r"^> ?(.*)$", body, flags=re.MULTILINE)))
    if len(right) != 1 or not why:
        raise ValueError(f"a question has one right option and an explanation: {text!r}")
    return Question(text, tuple(option for _, option in options), right[0], why)


def _one_line(text: str) -> str:
    return " ".join(text.split())

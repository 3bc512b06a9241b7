"""Read a lesson from its Markdown file: text, code, hints and questions.

A file of ``content/`` has a title, the text, and four sections: ``## NumPy`` and ``## PyTorch`` (one block of code
each), ``## Hints`` (a numbered list) and ``## Questions`` (``###`` a question, ``- [x]`` its options, ``>`` why).
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Literal, TypeAlias, final, get_args

Framework: TypeAlias = Literal["numpy", "torch"]

FRAMEWORKS: tuple[Framework, ...] = get_args(Framework)

SECTIONS: Mapping[Framework, str] = {"numpy": "NumPy", "torch": "PyTorch"}
"""The name of a framework in the text."""

UNWRITTEN = "your turn"
"""Message of the NotImplementedError in the unwritten parts of a skeleton."""

_SOLUTION = re.compile(
    r"^(?P<indent> *)### BEGIN SOLUTION: (?P<task>.*)\n(?P<body>(?:.*\n)*?) *### END SOLUTION\n", re.MULTILINE
)


@final
@dataclass(frozen=True)
class Code:
    r"""A finished program with marked solutions; the skeleton is the same file without them.

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
        return _SOLUTION.sub(lambda match: match["body"], self.source)

    @property
    def skeleton(self) -> str:
        """The program without the parts that the learner writes."""
        return _SOLUTION.sub(_replace_solution, self.source)


def _replace_solution(match: re.Match[str]) -> str:
    # The learner's file must be valid Python before it is finished, so a raise marks each unfinished part.
    indent = match["indent"]
    return f'{indent}# Your turn: {match["task"]}.\n{indent}raise NotImplementedError("{UNWRITTEN}")\n'


@final
@dataclass(frozen=True)
class Question:
    """A multiple-choice question."""

    text: str  # the question
    options: tuple[str, ...]  # the possible answers
    right: int  # the index of the right option
    why: str  # the explanation, also of the wrong options

    @property
    def letters(self) -> str:
        """The letters of the options."""
        return LETTERS[: len(self.options)]

    @property
    def letter(self) -> str:
        """The letter of the right option."""
        return LETTERS[self.right]


LETTERS = "abcdefgh"


@final
@dataclass(frozen=True)
class Lesson:
    """The text, code, hints and questions of a challenge."""

    title: str  # a few words
    text: str  # the mathematics, in Markdown
    code: Mapping[Framework, Code]  # the program to write, for each framework
    hints: tuple[str, ...]  # from a small hint to nearly the whole solution
    questions: tuple[Question, ...]  # for after the challenge


@cache
def lesson(name: str) -> Lesson:
    """Read the lesson of a challenge.

    >>> lesson("adamw").title
    'AdamW: decay that acts on the weight'
    """
    return parse((files("gradstep.learn") / "content" / f"{name}.md").read_text("utf-8"))


def parse(markdown: str) -> Lesson:
    """Parse the Markdown of a lesson.

    Raises:
        ValueError: a section is missing, or a question does not have exactly one right option.
    """
    sections = dict(_split_sections(markdown, "## "))
    wanted = {"", *SECTIONS.values(), "Hints", "Questions"}
    if sections.keys() != wanted:
        raise ValueError(f"a lesson has the sections {sorted(wanted)}, not {sorted(sections)}")
    title, text = sections[""].removeprefix("# ").split("\n", 1)
    hints = re.split(r"^\d+\. ", sections["Hints"], flags=re.MULTILINE)[1:]
    return Lesson(
        title,
        text.strip(),
        {
            framework: Code(sections[section].removeprefix("```python\n").removesuffix("```"))
            for framework, section in SECTIONS.items()
        },
        tuple(_join_lines(hint) for hint in hints),
        tuple(_parse_question(*parts) for parts in _split_sections(sections["Questions"], "### ") if parts[0]),
    )


def _split_sections(markdown: str, mark: str) -> Iterator[tuple[str, str]]:
    """Yield the heading and the body of each section; the text before the first has the heading ""."""
    heading, body, fenced = "", list[str](), False
    for line in markdown.splitlines():
        fenced ^= line.startswith("```")
        if line.startswith(mark) and not fenced:
            yield heading, "\n".join(body).strip()
            heading, body = line.removeprefix(mark).strip(), []
        else:
            body.append(line)
    yield heading, "\n".join(body).strip()


def _parse_question(text: str, body: str) -> Question:
    options = re.findall(r"^- \[([ x])\] (.*)$", body, flags=re.MULTILINE)
    right = [i for i, (mark, _) in enumerate(options) if mark == "x"]
    why = _join_lines("\n".join(re.findall(r"^> ?(.*)$", body, flags=re.MULTILINE)))
    if len(right) != 1 or not why:
        raise ValueError(f"a question has one right option and an explanation: {text!r}")
    return Question(text, tuple(option for _, option in options), right[0], why)


def _join_lines(text: str) -> str:
    return " ".join(text.split())


def create_file(file: Path, content: str) -> bool:
    """Create a file and return True; leave an existing file, which is the learner's work, and return False.

    Raises:
        OSError: the folder cannot be written to.
    """
    try:
        with file.open("x", encoding="utf-8") as out:
            out.write(content)
    except FileExistsError:
        return False
    return True

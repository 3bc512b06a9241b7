"""What a learner has done so far, kept in the course's folder and nowhere else.

One small JSON file beside the learner's own files, readable by its owner only: the folder can be moved, copied
and deleted as a whole, and two courses do not know of each other.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar, final

from gradstep.learn.lesson import FRAMEWORKS, Framework
from gradstep.storage import atomic_write

FILE = ".gradstep-learn.json"
DAMAGED = ".gradstep-learn.damaged.json"
_VERSION = 1


@final
@dataclass(frozen=True)
class Work:
    """One challenge in one framework.

    Attributes:
        attempts: how often it was checked, once something was written.
        passed: whether a check passed.
        diagnosis: what the last check would say about the likely mistake, a piece at a time.
        told: how many pieces of it were.
        hints: how many of the lesson's hints were read.
        solution_seen: whether the solution was looked at.
    """

    attempts: int = 0
    passed: bool = False
    diagnosis: tuple[str, ...] = ()
    told: int = 0
    hints: int = 0
    solution_seen: bool = False


@final
@dataclass(frozen=True)
class Progress:
    """All of a course.

    Attributes:
        framework: the one that was worked in last.
        work: by challenge and framework, as in "adamw/torch"; those that were begun.
        answers: the letters last given to a challenge's questions.
        experiments: those that were run.
    """

    framework: Framework = "numpy"
    work: Mapping[str, Work] = field(default_factory=dict)
    answers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    experiments: tuple[str, ...] = ()

    def of(self, name: str, framework: Framework) -> Work | None:
        """The work on one challenge, if it was begun."""
        return self.work.get(f"{name}/{framework}")

    def with_work(self, name: str, framework: Framework, work: Work) -> Progress:
        """The same with this work on a challenge."""
        return replace(self, framework=framework, work={**self.work, f"{name}/{framework}": work})


def load(folder: Path) -> tuple[Progress, str]:
    """The progress in a folder, and a remark if its file could not be read.

    A damaged file is put aside under another name, and the course begins anew; the learner's own files are not touched.

    Raises:
        OSError: the file cannot be opened, or put aside.
    """
    file = folder / FILE
    try:
        return _from_json(file.read_text("utf-8")), ""
    except FileNotFoundError:
        return Progress(), ""
    except (ValueError, TypeError, KeyError, AttributeError):
        file.replace(folder / DAMAGED)
        return Progress(), (
            f"The notes on your progress in {file} could not be read. They are kept as {DAMAGED}, and new ones "
            "are begun; your own files are as they were. A check puts a challenge back on the list."
        )


def save(folder: Path, progress: Progress) -> None:
    """Keep the progress; the folder is made if need be, and the file is its owner's alone.

    Raises:
        OSError: the folder cannot be written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    content = {"version": _VERSION, **asdict(progress)}
    with atomic_write(folder / FILE) as file:
        Path(file.name).chmod(0o600)
        file.write(json.dumps(content, indent=1, ensure_ascii=False).encode())


def _from_json(text: str) -> Progress:
    content = json.loads(text)
    if content.pop("version") != _VERSION:
        raise ValueError("another version")
    work = {name: _made(Work, values) for name, values in content["work"].items()}
    answers = {name: _words(letters) for name, letters in content["answers"].items()}
    progress = _made(Progress, {**content, "work": work, "answers": answers})
    if progress.framework not in FRAMEWORKS:
        raise ValueError(progress.framework)
    return progress


_Made = TypeVar("_Made", Progress, Work)


def _made(kind: type[_Made], values: Mapping[str, Any]) -> _Made:
    """The dataclass of these values, each of which must have the type of the field's default."""
    given: dict[str, Any] = {n: _words(value) if isinstance(value, list) else value for n, value in values.items()}
    for name, default in vars(kind()).items():
        if type(given.get(name, default)) is not type(default):
            raise TypeError(f"{name} is {given[name]!r}")
    return kind(**given)


def _words(values: Any) -> tuple[str, ...]:
    if not all(isinstance(value, str) for value in values):
        raise TypeError(f"{values!r} are not texts")
    return tuple(values)

"""A learner's progress, saved in the course's folder and nowhere else.

It is one small JSON file beside the learner's own files, readable by its owner only. The folder can be moved, copied
and deleted as a whole, and two courses are independent.
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
    """The work on one challenge in one framework.

    Attributes:
        attempts: number of checks of the learner's own code.
        passed: whether a check passed.
        diagnosis: the pieces of the last check's diagnosis; each is a hint.
        told: how many of these pieces were shown.
        hints: how many of the lesson's hints were shown.
        solution_seen: whether the solution was shown.
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
    """The progress in a whole course.

    Attributes:
        framework: the framework used last.
        work: the work that was begun, by challenge and framework, as in "adamw/torch".
        answers: by challenge, the letters given last to its questions.
        experiments: the experiments that were run.
    """

    framework: Framework = "numpy"
    work: Mapping[str, Work] = field(default_factory=dict)
    answers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    experiments: tuple[str, ...] = ()

    def of(self, name: str, framework: Framework) -> Work | None:
        """Return the work on one challenge, or None if it was not begun."""
        return self.work.get(f"{name}/{framework}")

    def with_work(self, name: str, framework: Framework, work: Work) -> Progress:
        """Return a copy with this work on a challenge."""
        return replace(self, framework=framework, work={**self.work, f"{name}/{framework}": work})


def load(folder: Path) -> tuple[Progress, str]:
    """Return the progress in a folder, and a remark if its file could not be read.

    A damaged file is renamed and the progress starts from zero; the learner's own files are not touched.

    Raises:
        OSError: the file cannot be opened or renamed.
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
    """Save the progress in a file that only its owner can read; make the folder if it is missing.

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
    work = {name: _build(Work, values) for name, values in content["work"].items()}
    answers = {name: _check_words(letters) for name, letters in content["answers"].items()}
    progress = _build(Progress, {**content, "work": work, "answers": answers})
    if progress.framework not in FRAMEWORKS:
        raise ValueError(progress.framework)
    return progress


_Record = TypeVar("_Record", Progress, Work)


def _build(kind: type[_Record], values: Mapping[str, Any]) -> _Record:
    """Build a dataclass from values; each must have the type of the field's default."""
    fields: dict[str, Any] = {
        n: _check_words(value) if isinstance(value, list) else value for n, value in values.items()
    }
    for name, default in vars(kind()).items():
        if type(fields.get(name, default)) is not type(default):
            raise TypeError(f"{name} is {fields[name]!r}")
    return kind(**fields)


def _check_words(values: Any) -> tuple[str, ...]:
    if not all(isinstance(value, str) for value in values):
        raise TypeError(f"{values!r} are not texts")
    return tuple(values)

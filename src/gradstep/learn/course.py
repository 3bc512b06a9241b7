"""The acts of a learner in a folder: start, check, take a hint, answer questions; and the progress, saved at once."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, final

from gradstep.judge import Status, Verdict
from gradstep.learn.checking import CHALLENGES, Challenge, challenge_named, is_unfinished, judge_file
from gradstep.learn.experiments import EXPERIMENTS
from gradstep.learn.lesson import FRAMEWORKS, Framework, Question, create_file
from gradstep.storage import atomic_write

COURSE_FILE = ".gradstep-learn.json"
DAMAGED = ".gradstep-learn.damaged.json"
_VERSION = 1


@final
@dataclass(frozen=True)
class ChallengeWork:
    """The work on one challenge in one framework."""

    attempts: int = 0  # number of checks of the learner's own code
    passed: bool = False  # whether a check passed
    diagnosis: tuple[str, ...] = ()  # the pieces of the last check's diagnosis; each is a hint
    told: int = 0  # how many of these pieces were shown
    hints: int = 0  # how many of the lesson's hints were shown
    solution_seen: bool = False  # whether the solution was shown


@final
@dataclass(frozen=True)
class Progress:
    """The progress in a whole course."""

    framework: Framework = "numpy"  # the framework used last
    # the work that was begun, by challenge and framework, as in "adamw/torch"
    work: Mapping[str, ChallengeWork] = field(default_factory=dict)
    # by challenge, the letters given last to its questions
    answers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    experiments: tuple[str, ...] = ()  # the experiments that were run

    def of(self, name: str, framework: Framework) -> ChallengeWork | None:
        """Return the work on one challenge, or None if it was not begun."""
        return self.work.get(f"{name}/{framework}")

    def with_work(self, name: str, framework: Framework, work: ChallengeWork) -> Progress:
        """Return a copy with this work on a challenge."""
        return replace(self, framework=framework, work={**self.work, f"{name}/{framework}": work})


def load_progress(folder: Path) -> tuple[Progress, str]:
    """Return the progress in a folder, and a remark if its file could not be read.

    A damaged file is renamed and the progress starts from zero; the learner's own files are not touched.

    Raises:
        OSError: the file cannot be opened or renamed.
    """
    file = folder / COURSE_FILE
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


def save_progress(folder: Path, progress: Progress) -> None:
    """Save the progress in a file that only its owner can read; make the folder if it is missing.

    Raises:
        OSError: the folder cannot be written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    content = {"version": _VERSION, **asdict(progress)}
    with atomic_write(folder / COURSE_FILE) as file:
        Path(file.name).chmod(0o600)
        file.write(json.dumps(content, indent=1, ensure_ascii=False).encode())


def _from_json(text: str) -> Progress:
    """Return the progress that a file holds.

    Raises:
        ValueError, KeyError, TypeError: the text is not what this version writes.
    """
    content = json.loads(text)
    if content.pop("version") != _VERSION:
        raise ValueError("another version")
    work = {name: _build(ChallengeWork, values) for name, values in content["work"].items()}
    answers = {name: _check_words(letters) for name, letters in content["answers"].items()}
    progress = _build(Progress, {**content, "work": work, "answers": answers})
    if progress.framework not in FRAMEWORKS:
        raise ValueError(progress.framework)
    return progress


_Record = TypeVar("_Record", Progress, ChallengeWork)


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


FOLDER = "gradstep-course"
"""Default folder of a course, below the current folder."""


class StartFiles(NamedTuple):
    """The files that :meth:`Course.start` made, and the files that existed already and were not changed."""

    made: tuple[Path, ...]
    existing: tuple[Path, ...]


class Hint(NamedTuple):
    """One hint, its number, and the number of all hints."""

    text: str
    number: int
    of: int


class Answer(NamedTuple):
    """A question, the letter given as the answer, and whether it is right."""

    question: Question
    given: str
    right: bool


@final
@dataclass(frozen=True)
class Course:
    """A course in a folder."""

    folder: Path  # the folder of the learner's files and of the progress file
    option: str = ""  # the option that names the folder, as in " --dir lessons"; empty for the default folder

    @staticmethod
    def at(folder: Path | None) -> Course:
        """Return the course in a folder; by default the current folder if it has one, else ``gradstep-course``.

        Raises:
            ValueError: the folder is a file.
        """
        if folder is not None and folder.exists() and not folder.is_dir():
            raise ValueError(f"{folder} is a file; a course needs a folder")
        if folder is not None:
            return Course(folder, f" --dir {shlex.quote(str(folder))}")
        return Course(Path() if Path(COURSE_FILE).exists() else Path(FOLDER))

    @property
    def has_progress(self) -> bool:
        """Whether the folder has a progress file."""
        return (self.folder / COURSE_FILE).exists()

    def progress(self) -> Progress:
        """Return the progress so far."""
        return load_progress(self.folder)[0]

    def mend(self) -> str:
        """Put a damaged progress file aside; return a remark about it, or ""."""
        return load_progress(self.folder)[1]

    def framework(self, choice: Framework | None, file: Path | None = None) -> Framework:
        """Return the given framework, else the one that the file imports, else the last one of the progress."""
        if choice is None and file is not None and file.is_file():
            return "torch" if "import torch" in file.read_text("utf-8", errors="replace") else "numpy"
        return choice or self.progress().framework

    def challenge(self, name: str | None) -> Challenge:
        """Return the challenge of that name; without a name the current challenge.

        The current challenge is the first that was begun and not passed, else the last that was begun, else the first.

        Raises:
            ValueError: no such challenge.
        """
        if name is not None:
            return challenge_named(name)
        progress = self.progress()
        works = {key: progress.of(key, progress.framework) for key in CHALLENGES}
        begun = [key for key, work in works.items() if work is not None]
        unpassed = [key for key in begun if (work := works[key]) is not None and not work.passed]
        return CHALLENGES[(unpassed[:1] or begun[-1:] or list(CHALLENGES)[:1])[0]]

    def file(self, challenge: Challenge, framework: Framework) -> Path:
        """Return the learner's file."""
        return self.folder / challenge.file(framework)

    def start(self, challenge: Challenge, framework: Framework) -> StartFiles:
        """Write the text and the skeleton into the folder; files that exist already stay as they are.

        Raises:
            OSError: the folder cannot be made or written to.
        """
        lesson = challenge.lesson
        self._save_work(challenge, framework)
        files = {
            self.folder / f"{challenge.name}.md": f"# {lesson.title}\n\n{lesson.text}\n",
            self.file(challenge, framework): lesson.code[framework].skeleton,
        }
        made = tuple(file for file, content in files.items() if create_file(file, content))
        return StartFiles(made, tuple(file for file in files if file not in made))

    def check(
        self, challenge: Challenge, framework: Framework, file: Path | None = None, convention: str = "torch"
    ) -> Verdict:
        """Judge the learner's file; save the outcome and the diagnosis."""
        verdict = judge_file(challenge, framework, file or self.file(challenge, framework), convention=convention)
        if verdict.status is Status.UNJUDGED or is_unfinished(verdict):
            return verdict
        work, pieces = self._work(challenge, framework), split_diagnosis(verdict)
        self._save_work(
            challenge,
            framework,
            attempts=work.attempts + 1,
            passed=work.passed or verdict.passed,
            diagnosis=pieces,
            told=work.told if pieces == work.diagnosis else 0,
        )
        return verdict

    def _work(self, challenge: Challenge, framework: Framework) -> ChallengeWork:
        return self.progress().of(challenge.name, framework) or ChallengeWork()

    def _save_work(self, challenge: Challenge, framework: Framework, **changes: Any) -> None:
        """Save the work on a challenge with some fields changed."""
        work = replace(self._work(challenge, framework), **changes)
        save_progress(self.folder, self.progress().with_work(challenge.name, framework, work))

    def hints(self, challenge: Challenge, framework: Framework) -> list[Hint]:
        """Return the hints given so far: first those on the mistake of the last check, then the lesson's."""
        work = self._work(challenge, framework)
        every = (*work.diagnosis, *challenge.lesson.hints)
        shown = (*work.diagnosis[: work.told], *challenge.lesson.hints[: work.hints])
        return [Hint(text, every.index(text) + 1, len(every)) for text in shown]

    def hint(self, challenge: Challenge, framework: Framework) -> Hint | None:
        """Return one more hint and save that it was given; None if there are no more."""
        work = self._work(challenge, framework)
        if work.told < len(work.diagnosis):
            text = work.diagnosis[work.told]
            self._save_work(challenge, framework, told=work.told + 1)
        elif work.hints < len(challenge.lesson.hints):
            text = challenge.lesson.hints[work.hints]
            self._save_work(challenge, framework, hints=work.hints + 1)
        else:
            return None
        every = (*work.diagnosis, *challenge.lesson.hints)
        return Hint(text, every.index(text) + 1, len(every))

    def tried(self, challenge: Challenge, framework: Framework) -> bool:
        """Return whether the learner's own code was checked at least once."""
        return self._work(challenge, framework).attempts > 0

    def solution(self, challenge: Challenge, framework: Framework) -> str:
        """Return the finished program and save that it was shown."""
        self._save_work(challenge, framework, solution_seen=True)
        return challenge.lesson.code[framework].solution

    def answer(self, challenge: Challenge, letters: Sequence[str]) -> list[Answer]:
        """Grade the answers to all questions and save them.

        Raises:
            ValueError: too few or too many letters, or a letter that is not among the options.
        """
        graded = grade_answers(challenge, letters)
        progress = self.progress()
        answers = {**progress.answers, challenge.name: tuple(answer.given for answer in graded)}
        save_progress(self.folder, replace(progress, answers=answers))
        return graded

    def ran(self, experiment: str) -> None:
        """Save that an experiment was run."""
        progress = self.progress()
        done = dict.fromkeys((*progress.experiments, experiment))
        save_progress(self.folder, replace(progress, experiments=tuple(done)))


def grade_answers(challenge: Challenge, letters: Sequence[str]) -> list[Answer]:
    """Grade the answers to all questions of a challenge.

    >>> from gradstep.learn.checking import CHALLENGES
    >>> [answer.right for answer in grade_answers(CHALLENGES["sgd"], ["b", "a", "a"])]
    [True, True, False]
    """
    questions = challenge.lesson.questions
    if len(letters) != len(questions):
        raise ValueError(f"{challenge.name} has {len(questions)} questions, but there are {len(letters)} answers")
    given = [letter.strip().lower() for letter in letters]
    for number, (letter, question) in enumerate(zip(given, questions), 1):
        if letter not in list(question.letters):
            raise ValueError(f"the answer to question {number} is one of {', '.join(question.letters)}, not {letter!r}")
    return [Answer(q, letter, letter == q.letter) for q, letter in zip(questions, given)]


def split_diagnosis(verdict: Verdict) -> tuple[str, ...]:
    """Return the pieces of a diagnosis: what the likely mistake is, where to look, what to read."""
    if verdict.passed:
        return ()
    if verdict.matches:
        match = verdict.matches[0]
        pieces = [f"What your code computes is {match.sentence}."]
        if match.conventions:
            pieces[0] += f" Some libraries do so on purpose: --convention {match.conventions[0]} accepts it."
        return (*pieces, *(f"Look for: {text}." for text in match.look_for), *(f"Read: {t}." for t in match.read))
    about = [f"About {p.name!r} ({p.shows}): look for {p.look_for}." for p in verdict.failed() if p.look_for]
    if verdict.status is Status.DIFFERS or not about:
        about.insert(0, verdict.reason)
    return tuple(dict.fromkeys(about))


def advise(progress: Progress, course: Course, passed: Challenge | None = None) -> str:
    """Return the next command: first pass the challenges that were begun, then their questions, then a new one.

    The questions of ``passed``, a challenge that was passed just now, come before all.
    """
    framework = progress.framework
    if passed is not None and passed.name not in progress.answers:
        return f"gradstep learn quiz {passed.name}{course.option}"
    works = {name: progress.of(name, framework) for name in CHALLENGES}
    begun = [name for name, work in works.items() if work is not None and not work.passed]
    unasked = [name for name, work in works.items() if work is not None and name not in progress.answers]
    new = [name for name, work in works.items() if work is None]
    for act, names in (("check", begun), ("quiz", unasked), ("start", new)):
        if names:
            return f"gradstep learn {act} {names[0]}{course.option}"
    for experiment in EXPERIMENTS:
        if experiment not in progress.experiments:
            return f"gradstep learn run {experiment}{course.option}"
    other = next(f for f in FRAMEWORKS if f != framework)
    if any(progress.of(name, other) is None for name in CHALLENGES):
        return f"gradstep learn start sgd --{other}{course.option}"
    return "gradstep race digits"


def advise_after_check(verdict: Verdict, course: Course, challenge: Challenge) -> str:
    """Return the next command after a check."""
    if verdict.passed:
        return advise(course.progress(), course, challenge)
    hint = f"gradstep learn hint {challenge.name}{course.option}"
    if is_unfinished(verdict):
        return f"write it, then gradstep learn check {challenge.name}{course.option} (stuck? {hint})"
    return hint

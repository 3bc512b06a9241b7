"""What a learner does in a folder: start, check, ask for a hint, answer questions. Each act is kept at once."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, final

from gradstep.judge import Status, Verdict
from gradstep.learn.challenges import CHALLENGES, Challenge, challenge_named
from gradstep.learn.checking import check_file, unwritten
from gradstep.learn.experiments import EXPERIMENTS
from gradstep.learn.lesson import FRAMEWORKS, Framework, Question
from gradstep.learn.progress import FILE, Progress, Work, load, save

FOLDER = "gradstep-course"
"""Where a course is, below the current folder, if nothing else is said."""


class Written(NamedTuple):
    """Files that :meth:`Course.start` made, and those that were there already and stayed as they are."""

    made: tuple[Path, ...]
    kept: tuple[Path, ...]


class Hint(NamedTuple):
    """One hint, and which of how many it is."""

    text: str
    number: int
    of: int


class Answer(NamedTuple):
    """A question, what was answered, and whether that is right."""

    question: Question
    given: str
    right: bool


@final
@dataclass(frozen=True)
class Course:
    """A course in a folder.

    Attributes:
        folder: where the learner's files and the notes on the progress are.
        option: how commands are told of the folder, as in " --dir lessons"; empty where they find it by themselves.
    """

    folder: Path
    option: str = ""

    @staticmethod
    def at(folder: Path | None) -> Course:
        """The course in this folder; by default the current folder if there is one in it, else ``gradstep-course``.

        Raises:
            ValueError: it is a file.
        """
        if folder is not None and folder.exists() and not folder.is_dir():
            raise ValueError(f"{folder} is a file; a course needs a folder")
        if folder is not None:
            return Course(folder, f" --dir {shlex.quote(str(folder))}")
        return Course(Path() if Path(FILE).exists() else Path(FOLDER))

    @property
    def begun(self) -> bool:
        """Whether anything was done in it."""
        return (self.folder / FILE).exists()

    def progress(self) -> Progress:
        """What was done so far."""
        return load(self.folder)[0]

    def mend(self) -> str:
        """A remark if the notes on the progress were damaged, and had to be put aside; else ""."""
        return load(self.folder)[1]

    def framework(self, asked: Framework | None, file: Path | None = None) -> Framework:
        """The framework asked for, or else the one that the file imports, or else the one worked in last."""
        if asked is None and file is not None and file.is_file():
            return "torch" if "import torch" in file.read_text("utf-8", errors="replace") else "numpy"
        return asked or self.progress().framework

    def challenge(self, name: str | None) -> Challenge:
        """The challenge of that name; without a name the current one.

        That is the first that was begun and not passed, else the last that was begun, else the first of all.

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
        """The learner's file."""
        return self.folder / challenge.file(framework)

    def start(self, challenge: Challenge, framework: Framework) -> Written:
        """Put the text and the skeleton into the folder. What is there already stays.

        Raises:
            OSError: the folder cannot be made or written to.
        """
        lesson, progress = challenge.lesson, self.progress()
        save(
            self.folder, progress.with_work(challenge.name, framework, progress.of(challenge.name, framework) or Work())
        )
        files = {
            self.folder / f"{challenge.name}.md": f"# {lesson.title}\n\n{lesson.text}\n",
            self.file(challenge, framework): lesson.code[framework].skeleton,
        }
        made = tuple(file for file, content in files.items() if _write_new(file, content))
        return Written(made, tuple(file for file in files if file not in made))

    def check(
        self, challenge: Challenge, framework: Framework, file: Path | None = None, convention: str = "torch"
    ) -> Verdict:
        """Judge the learner's file, and remember how it went and what there would be to say about it."""
        verdict = check_file(challenge, framework, file or self.file(challenge, framework), convention=convention)
        if verdict.status is Status.UNJUDGED or unwritten(verdict):
            return verdict
        progress = self.progress()
        work = progress.of(challenge.name, framework) or Work()
        found = diagnosis(verdict)
        work = replace(
            work,
            attempts=work.attempts + 1,
            passed=work.passed or verdict.passed,
            diagnosis=found,
            told=work.told if found == work.diagnosis else 0,
        )
        save(self.folder, progress.with_work(challenge.name, framework, work))
        return verdict

    def hints(self, challenge: Challenge, framework: Framework) -> list[Hint]:
        """Those that were given so far: first about the mistake that the last check found, then the lesson's own."""
        work = self.progress().of(challenge.name, framework) or Work()
        every = (*work.diagnosis, *challenge.lesson.hints)
        shown = (*work.diagnosis[: work.told], *challenge.lesson.hints[: work.hints])
        return [Hint(text, every.index(text) + 1, len(every)) for text in shown]

    def hint(self, challenge: Challenge, framework: Framework) -> Hint | None:
        """One more hint, or None if all were given."""
        progress = self.progress()
        work = progress.of(challenge.name, framework) or Work()
        if work.told < len(work.diagnosis):
            work = replace(work, told=work.told + 1)
            text = work.diagnosis[work.told - 1]
        elif work.hints < len(challenge.lesson.hints):
            work = replace(work, hints=work.hints + 1)
            text = challenge.lesson.hints[work.hints - 1]
        else:
            return None
        save(self.folder, progress.with_work(challenge.name, framework, work))
        every = (*work.diagnosis, *challenge.lesson.hints)
        return Hint(text, every.index(text) + 1, len(every))

    def tried(self, challenge: Challenge, framework: Framework) -> bool:
        """Whether something of the learner's own was checked."""
        work = self.progress().of(challenge.name, framework)
        return work is not None and work.attempts > 0

    def solution(self, challenge: Challenge, framework: Framework) -> str:
        """The finished program; that it was looked at is remembered."""
        progress = self.progress()
        work = progress.of(challenge.name, framework) or Work()
        save(self.folder, progress.with_work(challenge.name, framework, replace(work, solution_seen=True)))
        return challenge.lesson.code[framework].solution

    def answer(self, challenge: Challenge, letters: Sequence[str]) -> list[Answer]:
        """Grade the answers to all questions, and remember them.

        Raises:
            ValueError: too few or too many, or a letter that is not among the options.
        """
        graded = grade(challenge, letters)
        progress = self.progress()
        given = {**progress.answers, challenge.name: tuple(answer.given for answer in graded)}
        save(self.folder, replace(progress, answers=given))
        return graded

    def ran(self, experiment: str) -> None:
        """Remember that an experiment was run."""
        progress = self.progress()
        done = dict.fromkeys((*progress.experiments, experiment))
        save(self.folder, replace(progress, experiments=tuple(done)))


def grade(challenge: Challenge, letters: Sequence[str]) -> list[Answer]:
    """The answers to all questions of a challenge.

    >>> from gradstep.learn.challenges import CHALLENGES
    >>> [answer.right for answer in grade(CHALLENGES["sgd"], ["b", "a", "a"])]
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


def diagnosis(verdict: Verdict) -> tuple[str, ...]:
    """What there is to say about the likely mistake, a piece at a time: what it is, where to look, what to read."""
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


def _write_new(file: Path, content: str) -> bool:
    """Whether the file could be made new: one that is there is somebody's work."""
    try:
        with file.open("x", encoding="utf-8") as out:
            out.write(content)
    except FileExistsError:
        return False
    return True


def advice(progress: Progress, course: Course, passed: Challenge | None = None) -> str:
    """The command that comes next: what was begun is passed, then asked about; then the next is begun.

    Args:
        progress: what was done.
        course: where.
        passed: a challenge that was passed just now: its own questions come first.
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


def after(verdict: Verdict, course: Course, challenge: Challenge) -> str:
    """What to do after a check."""
    if verdict.passed:
        return advice(course.progress(), course, challenge)
    hint = f"gradstep learn hint {challenge.name}{course.option}"
    if unwritten(verdict):
        return f"write it, then gradstep learn check {challenge.name}{course.option} (stuck? {hint})"
    return hint

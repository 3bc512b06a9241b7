"""What the course shows on a terminal; needs rich, of the extra ``lab``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Group, RenderableType
from rich.markdown import Markdown
from rich.padding import Padding
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from gradstep.judge import Status, Verdict
from gradstep.learn.challenges import CHALLENGES, Challenge
from gradstep.learn.checking import unwritten
from gradstep.learn.course import Answer, Course, Hint, Written
from gradstep.learn.experiments import EXPERIMENTS, Experiment, Finding
from gradstep.learn.lesson import FRAMEWORKS, LETTERS, SECTIONS, Framework, Question
from gradstep.learn.progress import Progress
from gradstep.learn.steps import Line

WIDTH = 100
"""Columns of running text, where the terminal is wider."""

_SHOWN = 2
"""Failed probes told in full after a check; of the others the names."""


def overview(progress: Progress, course: Course) -> RenderableType:
    """The challenges with what was done of each, and what else there is."""
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    grid.add_column("challenge", no_wrap=True)
    grid.add_column("")
    for framework in FRAMEWORKS:
        grid.add_column(SECTIONS[framework], no_wrap=True)
    grid.add_column("questions", no_wrap=True)
    for name, challenge in CHALLENGES.items():
        cells = [_state(progress, name, framework) for framework in FRAMEWORKS]
        grid.add_row(Text(name, "bold"), challenge.lesson.title, *cells, _score_cell(progress, challenge))
    more = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    more.add_column(no_wrap=True)
    more.add_column()
    for name, experiment in EXPERIMENTS.items():
        done = " (done)" if name in progress.experiments else ""
        more.add_row(Text(f"run {name}", "bold"), Text(experiment.title + done))
    more.add_row(Text("step-through", "bold"), "AdamW's step in slow motion, line by line")
    return Group(
        Text("From SGD to AdamW: write the optimizers yourself", "bold"),
        Text(f"Your folder: {course.folder}. Each in NumPy or, with --torch, in PyTorch.\n", "dim"),
        grid,
        Text("\nTo run and to look at", "bold"),
        more,
    )


def _state(progress: Progress, name: str, framework: Framework) -> Text:
    work = progress.of(name, framework)
    if work is None:
        return Text("–", "dim")
    if work.passed:
        return Text("passed, solution seen" if work.solution_seen else "passed", "green")
    return Text(f"tried {work.attempts}×" if work.attempts else "begun", "yellow")


def _score_cell(progress: Progress, challenge: Challenge) -> Text:
    questions, given = challenge.lesson.questions, progress.answers.get(challenge.name)
    if given is None:
        return Text("–", "dim")
    right = sum(letter == q.letter for letter, q in zip(given, questions))
    return Text(f"{right} of {len(questions)}", "green" if right == len(questions) else "yellow")


def started(challenge: Challenge, framework: Framework, written: Written) -> RenderableType:
    """The text, and where the files are."""
    lesson = challenge.lesson
    lines = [Text(f"Written: {file}") for file in written.made]
    lines += [Text(f"Already there, left as it is: {file}", "dim") for file in written.kept]
    return Group(
        Text(lesson.title, "bold"),
        Text(),
        Markdown(lesson.text, code_theme="ansi_dark"),
        Text(f"\nWrite {challenge.entry} in {SECTIONS[framework]}.", "bold"),
        *lines,
    )


def missing(file: Path, course: Course) -> RenderableType:
    """A file that is not there, and whether it is looked for in the right place."""
    if course.begun:
        return Text(f"There is no file {file} yet.")
    return Text(f"There is no file {file}, and no course in {course.folder}: is yours in another folder (--dir)?")


def checked(challenge: Challenge, framework: Framework, verdict: Verdict, file: Path) -> RenderableType:
    """How it went: what fails and where numbers part; what the mistake is, hints tell."""
    if unwritten(verdict):
        return Text(f"There is still something to write in {file}: look for `Your turn`.")
    what, failed = challenge.described(framework), verdict.failed()
    if verdict.passed:
        parts: list[RenderableType] = [Text(f"Passed. {verdict.reason}", "bold green")]
    elif verdict.status is Status.UNJUDGED:
        parts = [Text(verdict.reason, "bold red")]
    else:
        fails = "fails" if len(failed) == 1 else "fail"
        count = f", {len(failed)} of {len(verdict.probes)} probes {fails}." if failed else f". {verdict.reason}"
        parts = [Text(f"Not yet: {what}{count}", "bold red")]
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 2), show_header=False)
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    told = tuple(dict.fromkeys(p.detail for p in failed))  # an error that arises everywhere is told once
    for detail in told[:_SHOWN]:
        probe = next(p for p in failed if p.detail == detail)
        grid.add_row(Text(probe.name, "red"), Text(probe.shows))
        if detail not in ("", probe.shows):
            grid.add_row("", Text(detail))
    others = [p.name for p in failed if p.detail not in told[:_SHOWN]]
    if others:
        grid.add_row(Text("and also", "dim"), Text(f"{', '.join(others)} (--all shows everything)", "dim"))
    parts += [grid] if failed else []
    parts += [Padding(Text(f"Note: {note}", "dim"), (0, 0, 0, 2)) for note in verdict.notes]
    return Group(*parts)


def hints(challenge: Challenge, framework: Framework, given: Sequence[Hint | None]) -> list[RenderableType]:
    """Hints with their numbers; None where there are no more."""
    if not given:
        return [Text(f"You have had no hint for {challenge.described(framework)} since the last check.")]
    return [_hint(challenge, one) for one in given]


def _hint(challenge: Challenge, given: Hint | None) -> RenderableType:
    if given is None:
        return Text(f"These were all hints for {challenge.name}.")
    return Group(Text(f"Hint {given.number} of {given.of}", "bold"), Markdown(given.text))


def program(source: str) -> RenderableType:
    """Python code."""
    return Syntax(source, "python", theme="ansi_dark", background_color="default", word_wrap=True)


def question(asked: Question, number: int, of: int) -> RenderableType:
    """A question and what there is to choose from."""
    options = Table(box=None, pad_edge=False, show_header=False, padding=(0, 1, 0, 2))
    options.add_column(no_wrap=True)
    options.add_column(overflow="fold")
    for letter, option in zip(LETTERS, asked.options):
        options.add_row(Text(letter, "bold"), Markdown(option))
    return Group(Text(f"\nQuestion {number} of {of}", "dim"), Markdown(f"**{asked.text}**"), options)


def graded(answer: Answer) -> RenderableType:
    """Whether it is right, and why."""
    if answer.right:
        head = Text(f"{answer.given}: right.", "bold green")
    else:
        head = Text(f"{answer.given}: no, it is {answer.question.letter}.", "bold red")
    return Group(head, Padding(Markdown(answer.question.why), (0, 0, 0, 2)))


def score(answers: Sequence[Answer]) -> RenderableType:
    """How many are right."""
    right = sum(answer.right for answer in answers)
    return Text(f"\n{right} of {len(answers)} right.", "bold green" if right == len(answers) else "bold yellow")


def asked(experiment: Experiment) -> RenderableType:
    """An experiment before it is run."""
    return Group(Text(experiment.title, "bold"), Text(f"Before you look: {experiment.question}", "dim"), Text())


def found(finding: Finding) -> RenderableType:
    """What came of it, in words."""
    return Group(*(Text(line) for line in finding.lines))


def line(shown: Line) -> RenderableType:
    """One line of a calculation, with what it is good for."""
    head = Text(f"\nStep {shown.step}", "bold") if shown.name == "g" else None
    text = Group(Text(str(shown)), Padding(Text(shown.why, "dim"), (0, 0, 0, 4)))
    return Group(head, text) if head else text


def following(command: str) -> RenderableType:
    """What to do next."""
    return Text.assemble("\nNext: ", (command, "bold cyan"))

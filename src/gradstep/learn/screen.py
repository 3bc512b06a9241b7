"""The course's output on a terminal; needs rich, of the extra ``lab``."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Group, RenderableType
from rich.markdown import Markdown
from rich.padding import Padding
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from gradstep.judge import Status, Verdict
from gradstep.learn.checking import CHALLENGES, Challenge, is_unfinished
from gradstep.learn.course import Answer, Course, Hint, Progress, StartFiles
from gradstep.learn.experiments import EXPERIMENTS, Experiment
from gradstep.learn.lesson import FRAMEWORKS, LETTERS, SECTIONS, Framework, Question
from gradstep.learn.steps import StepLine

TEXT_WIDTH = 100
"""Columns of running text on a wider terminal."""

_SHOWN = 2
"""Number of failed probes shown in full after a check; the others are only named."""


def describe_course(progress: Progress, course: Course) -> RenderableType:
    """Return the challenges with the progress in each, and the experiments."""
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    grid.add_column("challenge", no_wrap=True)
    grid.add_column("")
    for framework in FRAMEWORKS:
        grid.add_column(SECTIONS[framework], no_wrap=True)
    grid.add_column("questions", no_wrap=True)
    for name, challenge in CHALLENGES.items():
        cells = [_work_cell(progress, name, framework) for framework in FRAMEWORKS]
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


def _work_cell(progress: Progress, name: str, framework: Framework) -> Text:
    work = progress.of(name, framework)
    if work is None:
        return Text("–", "dim")
    if work.passed:
        return Text("passed, solution seen" if work.solution_seen else "passed", "green")
    return Text(f"tried {work.attempts}×" if work.attempts else "begun", "yellow")


def _score_cell(progress: Progress, challenge: Challenge) -> Text:
    questions, letters = challenge.lesson.questions, progress.answers.get(challenge.name)
    if letters is None:
        return Text("–", "dim")
    right = sum(letter == q.letter for letter, q in zip(letters, questions))
    return Text(f"{right} of {len(questions)}", "green" if right == len(questions) else "yellow")


def describe_start(challenge: Challenge, framework: Framework, files: StartFiles) -> RenderableType:
    """Return the lesson's text, and where the files are."""
    lesson = challenge.lesson
    lines = [Text(f"Written: {file}") for file in files.made]
    lines += [Text(f"Already there, left as it is: {file}", "dim") for file in files.existing]
    return Group(
        Text(lesson.title, "bold"),
        Text(),
        Markdown(lesson.text, code_theme="ansi_dark"),
        Text(f"\nWrite {challenge.entry} in {SECTIONS[framework]}.", "bold"),
        *lines,
    )


def describe_missing(file: Path, course: Course) -> RenderableType:
    """Return a message about a missing file; without a course in the folder it suggests another folder."""
    if course.has_progress:
        return Text(f"There is no file {file} yet.")
    return Text(f"There is no file {file}, and no course in {course.folder}: is yours in another folder (--dir)?")


def describe_check(challenge: Challenge, framework: Framework, verdict: Verdict, file: Path) -> RenderableType:
    """Return the outcome of a check and the first failed probes; the mistake itself is left to the hints."""
    if is_unfinished(verdict):
        return Text(f"There is still something to write in {file}: look for `Your turn`.")
    what, failed = challenge.title_in(framework), verdict.failed()
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
    details = tuple(dict.fromkeys(p.detail for p in failed))  # the same error in several probes is shown once
    for detail in details[:_SHOWN]:
        probe = next(p for p in failed if p.detail == detail)
        grid.add_row(Text(probe.name, "red"), Text(probe.shows))
        if detail not in ("", probe.shows):
            grid.add_row("", Text(detail))
    others = [p.name for p in failed if p.detail not in details[:_SHOWN]]
    if others:
        grid.add_row(Text("and also", "dim"), Text(f"{', '.join(others)} (--all shows everything)", "dim"))
    parts += [grid] if failed else []
    parts += [Padding(Text(f"Note: {note}", "dim"), (0, 0, 0, 2)) for note in verdict.notes]
    return Group(*parts)


def describe_hints(challenge: Challenge, framework: Framework, given: Sequence[Hint | None]) -> list[RenderableType]:
    """Return hints with their numbers; None stands for "no more"."""
    if not given:
        return [Text(f"You have had no hint for {challenge.title_in(framework)} since the last check.")]
    return [_describe_hint(challenge, hint) for hint in given]


def _describe_hint(challenge: Challenge, hint: Hint | None) -> RenderableType:
    if hint is None:
        return Text(f"These were all hints for {challenge.name}.")
    return Group(Text(f"Hint {hint.number} of {hint.of}", "bold"), Markdown(hint.text))


def highlight(source: str) -> RenderableType:
    """Return Python code with its syntax highlighted."""
    return Syntax(source, "python", theme="ansi_dark", background_color="default", word_wrap=True)


def describe_question(question: Question, number: int, of: int) -> RenderableType:
    """Return a question and its options."""
    options = Table(box=None, pad_edge=False, show_header=False, padding=(0, 1, 0, 2))
    options.add_column(no_wrap=True)
    options.add_column(overflow="fold")
    for letter, option in zip(LETTERS, question.options):
        options.add_row(Text(letter, "bold"), Markdown(option))
    return Group(Text(f"\nQuestion {number} of {of}", "dim"), Markdown(f"**{question.text}**"), options)


def describe_answer(answer: Answer) -> RenderableType:
    """Return whether an answer is right, and why."""
    if answer.right:
        head = Text(f"{answer.given}: right.", "bold green")
    else:
        head = Text(f"{answer.given}: no, it is {answer.question.letter}.", "bold red")
    return Group(head, Padding(Markdown(answer.question.why), (0, 0, 0, 2)))


def describe_score(answers: Sequence[Answer]) -> RenderableType:
    """Return how many answers are right."""
    right = sum(answer.right for answer in answers)
    return Text(f"\n{right} of {len(answers)} right.", "bold green" if right == len(answers) else "bold yellow")


def describe_experiment(experiment: Experiment) -> RenderableType:
    """Return an experiment's title and question, before it runs."""
    return Group(Text(experiment.title, "bold"), Text(f"Before you look: {experiment.question}", "dim"), Text())


def describe_line(shown: StepLine) -> RenderableType:
    """Return one line of a calculation and its purpose."""
    head = Text(f"\nStep {shown.step}", "bold") if shown.name == "g" else None
    text = Group(Text(str(shown)), Padding(Text(shown.why, "dim"), (0, 0, 0, 4)))
    return Group(head, text) if head else text


def describe_next(command: str) -> RenderableType:
    """Return the line that names the next command."""
    return Text.assemble("\nNext: ", (command, "bold cyan"))

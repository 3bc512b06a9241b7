"""``gradstep learn``: the course."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gradstep.cli.screen import console

if TYPE_CHECKING:
    from rich.console import RenderableType

    from gradstep.learn.course import Course
    from gradstep.learn.lesson import Framework

learn = typer.Typer(
    help="Write the optimizers yourself: challenges from SGD to AdamW, checked, with hints and pictures."
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The challenge: sgd, momentum, rmsprop, adam, ...")]
Torch = Annotated[
    bool | None, typer.Option("--torch/--numpy", help="Which of the two; by default the one worked in last.")
]
Dir = Annotated[
    Path | None,
    typer.Option("--dir", help="The course's folder; by default gradstep-course, or this one if a course is in it."),
]


@learn.callback(invoke_without_command=True)
def overview(context: typer.Context, dir_: Dir = None) -> None:
    """List the challenges, what you did of each, and what to do next."""
    if context.invoked_subcommand is not None:
        if dir_ is not None:
            raise typer.BadParameter(
                f"--dir stands after the command: gradstep learn {context.invoked_subcommand} --dir"
            )
        return
    from gradstep.learn import screen

    with _told(dir_) as course:
        _show(screen.overview(course.progress(), course))
        _next(course)


@learn.command()
def start(name: Name, torch: Torch = None, dir_: Dir = None) -> None:
    """Read about a challenge, and get a file to write it in. A file that is there already stays as it is."""
    from gradstep.learn import screen
    from gradstep.learn.challenges import challenge_named

    with _told(dir_) as course:
        challenge, framework = challenge_named(name), course.framework(_asked(torch))
        written = course.start(challenge, framework)
        _show(screen.started(challenge, framework, written))
        _next(course, f"write it, then gradstep learn check {challenge.name}{course.option}")


@learn.command()
def check(
    name: Name,
    file: Annotated[Path | None, typer.Argument(help="Your file; by default the one that `start` made.")] = None,
    torch: Torch = None,
    dir_: Dir = None,
    convention: Annotated[
        str, typer.Option(help="Whose reading of an optimizer counts: torch, paper, tinytorch, keras, ...")
    ] = "torch",
    all_: Annotated[bool, typer.Option("--all", help="Show every probe, and the diagnosis, at once.")] = False,
) -> None:
    """Judge what you wrote. Exit codes: 0 passed, 1 not yet, 2 could not be judged."""
    from gradstep.judge.table import table
    from gradstep.learn import screen
    from gradstep.learn.challenges import challenge_named
    from gradstep.learn.checking import unwritten
    from gradstep.learn.course import advice

    with _told(dir_) as course:
        challenge = challenge_named(name)
        framework = course.framework(_asked(torch), file)
        place = file or course.file(challenge, framework)
        if not place.is_file():
            _show(f"There is no file {place} yet.")
            _next(course, f"gradstep learn start {challenge.name} --{framework}{course.option}")
            raise typer.Exit(2)
        verdict = course.check(challenge, framework, place, convention)
        if unwritten(verdict):
            _show(f"There is still something to write in {place}: look for `Your turn`.")
        elif all_:
            console().print(table(verdict))
        else:
            _show(screen.checked(challenge, framework, verdict))
        after = f"gradstep learn hint {challenge.name}{course.option}"
        if unwritten(verdict):
            after = f"write it, then gradstep learn check {challenge.name}{course.option} (stuck? {after})"
        _next(course, advice(course.progress(), course, challenge) if verdict.passed else after)
        raise typer.Exit(verdict.exit_code)


@learn.command()
def hint(
    name: Name,
    torch: Torch = None,
    dir_: Dir = None,
    again: Annotated[bool, typer.Option("--again", help="Show those that you have had already.")] = False,
) -> None:
    """One more hint: about the mistake that the last check found, then on how to write it."""
    from gradstep.learn import screen
    from gradstep.learn.challenges import challenge_named

    with _told(dir_) as course:
        challenge, framework = challenge_named(name), course.framework(_asked(torch))
        given = course.hints(challenge, framework) if again else [course.hint(challenge, framework)]
        for one in given:
            _show(f"These were all hints for {challenge.name}." if one is None else screen.hint(one))
        if not given:
            _show(f"You have had no hint for {challenge.name} yet.")
        after = "solution" if given and given[-1] is None and course.tried(challenge, framework) else "check"
        _next(course, f"gradstep learn {after} {challenge.name}{course.option}")


@learn.command()
def solution(
    name: Name,
    torch: Torch = None,
    dir_: Dir = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask whether you mean it.")] = False,
) -> None:
    """Show a finished program, once you have tried yourself."""
    from gradstep.learn import screen
    from gradstep.learn.challenges import challenge_named

    with _told(dir_) as course:
        challenge, framework = challenge_named(name), course.framework(_asked(torch))
        if not course.tried(challenge, framework):
            _show(
                f"The solution is there once you have tried: write something into {course.file(challenge, framework)}."
            )
            _next(course, f"gradstep learn check {challenge.name} --{framework}{course.option}")
            raise typer.Exit(1)
        if not yes:
            typer.confirm(f"Show the whole solution of {challenge.described(framework)}?", abort=True)
        _show(screen.program(course.solution(challenge, framework)))
        _next(course, None)


@learn.command()
def quiz(
    name: Name,
    dir_: Dir = None,
    answers: Annotated[str | None, typer.Option(help="Your letters, as in b,a,c; nothing is asked then.")] = None,
) -> None:
    """Questions on a challenge, with the answers explained."""
    from gradstep.learn import screen
    from gradstep.learn.challenges import challenge_named
    from gradstep.learn.course import Answer

    with _told(dir_) as course:
        challenge = challenge_named(name)
        questions = challenge.lesson.questions
        letters = [] if answers is None else answers.split(",")
        graded = course.answer(challenge, letters) if answers is not None else []
        for number, question in enumerate(questions, 1):
            _show(screen.question(question, number, len(questions)))
            if answers is not None:
                _show(screen.graded(graded[number - 1]))
            elif sys.stdin.isatty():
                letters.append(_letter(question.letters))
                _show(screen.graded(Answer(question, letters[-1], letters[-1] == question.letter)))
        if not letters:
            _next(course, f"gradstep learn quiz {challenge.name}{course.option} --answers LETTER,LETTER,...")
            return
        graded = graded or course.answer(challenge, letters)
        _show(screen.score(graded))
        _next(course)


@learn.command()
def run(
    experiment: Annotated[str | None, typer.Argument(help="Which one; without a name they are listed.")] = None,
    dir_: Dir = None,
) -> None:
    """Run an experiment: figures here, and a picture in the course's folder."""
    from gradstep.learn import screen
    from gradstep.learn.experiments import EXPERIMENTS

    with _told(dir_) as course:
        if experiment is None:
            for each in EXPERIMENTS.values():
                _show(f"{each.name:16} {each.title}")
            _next(course, f"gradstep learn run {next(iter(EXPERIMENTS))}{course.option}")
            return
        if experiment not in EXPERIMENTS:
            raise ValueError(f"no experiment {experiment!r}: there are {', '.join(EXPERIMENTS)}")
        chosen = EXPERIMENTS[experiment]
        _show(screen.asked(chosen))
        finding = chosen.run()
        _show(screen.found(finding))
        _show(f"\nPicture: {finding.save(course.folder / f'{chosen.name}.png')}")
        course.ran(chosen.name)
        _next(course)


@learn.command("step-through")
def step_through(
    weight: Annotated[float, typer.Option(help="The weight before the first step.")] = 0.5,
    gradient: Annotated[list[float] | None, typer.Option(help="Its gradient; once for each step.")] = None,
    lr: Annotated[float, typer.Option(help="The learning rate.")] = 1e-4,
    weight_decay: Annotated[float, typer.Option(help="The decay.")] = 1e-3,
    dir_: Dir = None,
    all_: Annotated[bool, typer.Option("--all", help="Print everything at once.")] = False,
) -> None:
    """AdamW's step in slow motion: Enter for the next line."""
    from dataclasses import replace

    from gradstep.learn import screen, steps

    with _told(dir_) as course:
        rule = replace(steps.EXAMPLE, lr=lr, weight_decay=weight_decay)
        lines = steps.step_through(weight, gradient or (0.02,), rule)
        wait = sys.stdin.isatty() and not all_
        _show(
            f"AdamW with lr {lr:g}, betas {rule.betas}, eps {rule.eps:g}, decay {weight_decay:g}; "
            f"the weight is {weight:g}."
        )
        for line in lines:
            _show(screen.line(line))
            if wait and line is not lines[-1]:
                input()
        _next(course)


@learn.command()
def notebook(name: Name, torch: Torch = None, dir_: Dir = None) -> None:
    """Write a challenge as a Jupyter notebook: text, file, check, hints, pictures and questions in one place."""
    from gradstep.learn.challenges import challenge_named
    from gradstep.learn.notebook import write

    with _told(dir_) as course:
        challenge, framework = challenge_named(name), course.framework(_asked(torch))
        file, made = write(challenge, framework, course.folder)
        _show(f"Written: {file}" if made else f"Already there, left as it is: {file}")
        _next(course, f"jupyter lab {file}")


@contextmanager
def _told(folder: Path | None) -> Iterator["Course"]:
    """The course in this folder; what goes wrong is told in a line."""
    from gradstep.learn.course import Course

    try:
        course = Course.at(folder)
        remark = course.mend()
        if remark:
            _show(remark)
        yield course
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    except OSError as error:
        typer.echo(f"gradstep learn: {error}", err=True)
        raise typer.Exit(2) from error


def _asked(torch: bool | None) -> "Framework | None":
    return None if torch is None else "torch" if torch else "numpy"


def _letter(letters: str) -> str:
    while (given := str(typer.prompt("Your answer")).strip().lower()) not in list(letters):
        typer.echo(f"One of {', '.join(letters)}.")
    return given


def _show(what: "RenderableType") -> None:
    from gradstep.learn.screen import WIDTH

    screen = console()
    screen.print(what, width=min(screen.width, WIDTH), markup=False, highlight=False)


def _next(course: "Course", command: str | None = None) -> None:
    """How every command ends: with what to do next."""
    from gradstep.learn.course import advice
    from gradstep.learn.screen import following

    _show(following(command or advice(course.progress(), course)))

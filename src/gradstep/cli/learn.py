"""``gradstep learn``: the commands of the course."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gradstep.cli.screen import console, waiting

if TYPE_CHECKING:
    from rich.console import RenderableType

    from gradstep.learn.course import Course
    from gradstep.learn.lesson import Framework


Name = Annotated[str, typer.Argument(metavar="NAME", help="The challenge: sgd, momentum, rmsprop, adam, ...")]
Current = Annotated[
    str | None, typer.Argument(metavar="[NAME]", help="The challenge: sgd, adam, ...; by default the current one.")
]
Torch = Annotated[bool | None, typer.Option("--torch/--numpy", help="The framework; by default the one used last.")]
Dir = Annotated[
    Path | None,
    typer.Option("--dir", help="The course's folder; by default gradstep-course, or this folder if it has a course."),
]


@contextmanager
def open_course(folder: Path | None) -> Iterator["Course"]:
    """Open the course in a folder; print its errors in one line and leave with the exit code 2."""
    from gradstep.learn.course import Course

    try:
        course = Course.at(folder)
        remark = course.mend()
        if remark:
            show(remark)
        yield course
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    except OSError as error:
        typer.echo(f"gradstep learn: {error}", err=True)
        raise typer.Exit(2) from error


def choose_framework(torch: bool | None) -> "Framework | None":
    """Return the framework that the option ``--torch`` or ``--numpy`` names, None without it."""
    return None if torch is None else "torch" if torch else "numpy"


def is_interactive() -> bool:
    """Return whether input and output are a terminal, so that a person can answer questions."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def show(*parts: "RenderableType") -> None:
    """Print at most ``TEXT_WIDTH`` columns wide, so that the text stays readable."""
    from gradstep.learn.screen import TEXT_WIDTH

    screen = console()
    for part in parts:
        screen.print(part, width=min(screen.width, TEXT_WIDTH), markup=False, highlight=False)


def show_next(course: "Course", command: str | None = None) -> None:
    """Print what to do next, the last line of every command."""
    from gradstep.learn.course import advise
    from gradstep.learn.screen import describe_next

    show(describe_next(command or advise(course.progress(), course)))


def overview(context: typer.Context, dir_: Dir = None) -> None:
    """List the challenges, what you did of each, and what to do next."""
    if context.invoked_subcommand is not None:
        if dir_ is not None:
            raise typer.BadParameter(
                f"--dir stands after the command: gradstep learn {context.invoked_subcommand} --dir"
            )
        return
    from gradstep.learn import screen

    with open_course(dir_) as course:
        show(screen.describe_course(course.progress(), course))
        show_next(course)


def start(name: Name, torch: Torch = None, dir_: Dir = None) -> None:
    """Read about a challenge, and get a file to write it in. A file that is there already stays as it is."""
    from gradstep.learn import screen
    from gradstep.learn.checking import challenge_named

    with open_course(dir_) as course:
        challenge, framework = challenge_named(name), course.framework(choose_framework(torch))
        show(screen.describe_start(challenge, framework, course.start(challenge, framework)))
        show_next(course, f"write it, then gradstep learn check {challenge.name}{course.option}")


def check(
    name: Name,
    file: Annotated[Path | None, typer.Argument(help="Your file; by default the one that `start` made.")] = None,
    torch: Torch = None,
    dir_: Dir = None,
    convention: Annotated[
        str, typer.Option(help="The convention that counts as right: torch, paper, tinytorch, keras, ...")
    ] = "torch",
    all_: Annotated[bool, typer.Option("--all", help="Show every probe, and the diagnosis, at once.")] = False,
) -> None:
    """Judge what you wrote. Exit codes: 0 passed, 1 not yet, 2 could not be judged."""
    from gradstep.judge.table import draw_verdict
    from gradstep.learn import screen
    from gradstep.learn.checking import challenge_named, is_unfinished
    from gradstep.learn.course import advise_after_check

    with open_course(dir_) as course:
        challenge = challenge_named(name)
        framework = course.framework(choose_framework(torch), file)
        place = file or course.file(challenge, framework)
        if not place.is_file():
            show(screen.describe_missing(place, course))
            show_next(course, f"gradstep learn start {challenge.name} --{framework}{course.option}")
            raise typer.Exit(2)
        with waiting(f"judging {place}"):
            verdict = course.check(challenge, framework, place, convention)
        if all_ and not is_unfinished(verdict):
            console().print(draw_verdict(verdict))
        else:
            show(screen.describe_check(challenge, framework, verdict, place))
        show_next(course, advise_after_check(verdict, course, challenge))
        raise typer.Exit(verdict.exit_code)


def hint(
    name: Current = None,
    torch: Torch = None,
    dir_: Dir = None,
    again: Annotated[bool, typer.Option("--again", help="Show those that you have had already.")] = False,
) -> None:
    """One more hint: about the mistake that the last check found, then on how to write it."""
    from gradstep.learn import screen

    with open_course(dir_) as course:
        challenge, framework = course.challenge(name), course.framework(choose_framework(torch))
        one = None if again else course.hint(challenge, framework)
        show(*screen.describe_hints(challenge, framework, course.hints(challenge, framework) if again else [one]))
        spent = not again and one is None and course.tried(challenge, framework)
        show_next(course, f"gradstep learn {'solution' if spent else 'check'} {challenge.name}{course.option}")


def solution(
    name: Name,
    torch: Torch = None,
    dir_: Dir = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask whether you mean it.")] = False,
) -> None:
    """Show a finished program, once you have tried yourself."""
    from gradstep.learn import screen
    from gradstep.learn.checking import challenge_named

    with open_course(dir_) as course:
        challenge, framework = challenge_named(name), course.framework(choose_framework(torch))
        if not course.tried(challenge, framework):
            show(
                f"The solution is there once you have tried: write something into {course.file(challenge, framework)}."
            )
            show_next(course, f"gradstep learn check {challenge.name} --{framework}{course.option}")
            raise typer.Exit(1)
        if not yes:
            typer.confirm(f"Show the whole solution of {challenge.title_in(framework)}?", abort=True)
        show(screen.highlight(course.solution(challenge, framework)))
        show_next(course)


def quiz(
    name: Current = None,
    dir_: Dir = None,
    answers: Annotated[str | None, typer.Option(help="All your letters at once, as in b,a,c.")] = None,
) -> None:
    """Questions on a challenge, with the answers explained."""
    from gradstep.learn import screen
    from gradstep.learn.course import Answer

    with open_course(dir_) as course:
        challenge = course.challenge(name)
        questions = challenge.lesson.questions
        letters = [] if answers is None else answers.split(",")
        graded = course.answer(challenge, letters) if answers is not None else []
        for number, question in enumerate(questions, 1):
            show(screen.describe_question(question, number, len(questions)))
            if answers is not None:
                show(screen.describe_answer(graded[number - 1]))
            elif is_interactive():
                letters.append(_ask_letter(question.letters))
                show(screen.describe_answer(Answer(question, letters[-1], letters[-1] == question.letter)))
        if not letters:
            show_next(course, f"gradstep learn quiz {challenge.name}{course.option} --answers LETTER,LETTER,...")
            return
        graded = graded or course.answer(challenge, letters)
        show(screen.describe_score(graded))
        show_next(course)


def _ask_letter(letters: str) -> str:
    try:
        while (answer := str(typer.prompt("Your answer")).strip().lower()) not in list(letters):
            typer.echo(f"One of {', '.join(letters)}.")
    except typer.Abort as stop:
        typer.echo("\nStopped; nothing is kept, and the questions begin anew.")
        raise typer.Exit(130) from stop
    return answer


def run(
    experiment: Annotated[str | None, typer.Argument(help="The experiment; without a name, all are listed.")] = None,
    dir_: Dir = None,
) -> None:
    """Run an experiment: figures here, and a picture in the course's folder."""
    from gradstep.learn import screen
    from gradstep.learn.experiments import EXPERIMENTS

    with open_course(dir_) as course:
        if experiment is None:
            show(*(f"{each.name:16} {each.title}" for each in EXPERIMENTS.values()))
            show_next(course, f"gradstep learn run {next(iter(EXPERIMENTS))}{course.option}")
            return
        if experiment not in EXPERIMENTS:
            raise ValueError(f"no experiment {experiment!r}: there are {', '.join(EXPERIMENTS)}")
        chosen = EXPERIMENTS[experiment]
        show(screen.describe_experiment(chosen))
        finding = chosen.run()
        show(*finding.lines, f"\nPicture: {finding.save(course.folder / f'{chosen.name}.svg')}")
        course.ran(chosen.name)
        show_next(course)


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

    with open_course(dir_) as course:
        rule = replace(steps.EXAMPLE, lr=lr, weight_decay=weight_decay)
        lines = steps.step_through(weight, gradient or (0.02,), rule)
        wait = is_interactive() and not all_
        show(
            f"AdamW with lr {lr:g}, betas {rule.betas}, eps {rule.eps:g}, decay {weight_decay:g}; "
            f"the weight is {weight:g}."
        )
        for line in lines:
            show(screen.describe_line(line))
            if wait and line is not lines[-1]:
                input()
        show_next(course)


def notebook(name: Name, torch: Torch = None, dir_: Dir = None) -> None:
    """Write a challenge as a Jupyter notebook: text, file, check, hints, pictures and questions in one place."""
    from gradstep.learn.checking import challenge_named
    from gradstep.learn.notebook import write

    with open_course(dir_) as course:
        challenge, framework = challenge_named(name), course.framework(choose_framework(torch))
        file, made = write(challenge, framework, course.folder)
        show(f"Written: {file}" if made else f"Already there, left as it is: {file}")
        show_next(course, f"jupyter lab {file}")


__all__ = ["learn"]

learn = typer.Typer(
    help="Write the optimizers yourself: challenges from SGD to AdamW, checked, with hints and pictures."
)
learn.callback(invoke_without_command=True)(overview)
for command in (start, check, hint, solution, quiz, run, notebook):
    learn.command()(command)
learn.command("step-through")(step_through)

"""What the commands of the course share: arguments, the course they are about, and how they end."""

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

Name = Annotated[str, typer.Argument(metavar="NAME", help="The challenge: sgd, momentum, rmsprop, adam, ...")]
Current = Annotated[
    str | None, typer.Argument(metavar="[NAME]", help="The challenge: sgd, adam, ...; by default the current one.")
]
Torch = Annotated[
    bool | None, typer.Option("--torch/--numpy", help="Which of the two; by default the one worked in last.")
]
Dir = Annotated[
    Path | None,
    typer.Option("--dir", help="The course's folder; by default gradstep-course, or this one if a course is in it."),
]


@contextmanager
def told(folder: Path | None) -> Iterator["Course"]:
    """The course in this folder; what goes wrong is told in a line."""
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


def asked(torch: bool | None) -> "Framework | None":
    """The framework that was asked for."""
    return None if torch is None else "torch" if torch else "numpy"


def attended() -> bool:
    """Whether somebody sees what is asked, and can answer."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def show(*parts: "RenderableType") -> None:
    """Print, no wider than a text is read."""
    from gradstep.learn.screen import WIDTH

    screen = console()
    for part in parts:
        screen.print(part, width=min(screen.width, WIDTH), markup=False, highlight=False)


def show_next(course: "Course", command: str | None = None) -> None:
    """How every command ends: with what to do next."""
    from gradstep.learn.advice import advice
    from gradstep.learn.screen import following

    show(following(command or advice(course.progress(), course)))

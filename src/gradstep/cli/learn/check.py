"""``gradstep learn check``."""

from pathlib import Path
from typing import Annotated

import typer

from gradstep.cli.learn.shared import Dir, Name, Torch, asked, show, show_next, told
from gradstep.cli.screen import console


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
    from gradstep.learn.advice import after
    from gradstep.learn.challenges import challenge_named
    from gradstep.learn.checking import unwritten

    with told(dir_) as course:
        challenge = challenge_named(name)
        framework = course.framework(asked(torch), file)
        place = file or course.file(challenge, framework)
        if not place.is_file():
            show(screen.missing(place, course))
            show_next(course, f"gradstep learn start {challenge.name} --{framework}{course.option}")
            raise typer.Exit(2)
        verdict = course.check(challenge, framework, place, convention)
        if all_ and not unwritten(verdict):
            console().print(table(verdict))
        else:
            show(screen.checked(challenge, framework, verdict, place))
        show_next(course, after(verdict, course, challenge))
        raise typer.Exit(verdict.exit_code)

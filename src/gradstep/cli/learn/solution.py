"""``gradstep learn solution``."""

from typing import Annotated

import typer

from gradstep.cli.learn.shared import Dir, Name, Torch, asked, show, show_next, told


def solution(
    name: Name,
    torch: Torch = None,
    dir_: Dir = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask whether you mean it.")] = False,
) -> None:
    """Show a finished program, once you have tried yourself."""
    from gradstep.learn import screen
    from gradstep.learn.challenges import challenge_named

    with told(dir_) as course:
        challenge, framework = challenge_named(name), course.framework(asked(torch))
        if not course.tried(challenge, framework):
            show(
                f"The solution is there once you have tried: write something into {course.file(challenge, framework)}."
            )
            show_next(course, f"gradstep learn check {challenge.name} --{framework}{course.option}")
            raise typer.Exit(1)
        if not yes:
            typer.confirm(f"Show the whole solution of {challenge.described(framework)}?", abort=True)
        show(screen.program(course.solution(challenge, framework)))
        show_next(course)

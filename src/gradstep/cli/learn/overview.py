"""``gradstep learn``."""

import typer

from gradstep.cli.learn.shared import Dir, show, show_next, told


def overview(context: typer.Context, dir_: Dir = None) -> None:
    """List the challenges, what you did of each, and what to do next."""
    if context.invoked_subcommand is not None:
        if dir_ is not None:
            raise typer.BadParameter(
                f"--dir stands after the command: gradstep learn {context.invoked_subcommand} --dir"
            )
        return
    from gradstep.learn import screen

    with told(dir_) as course:
        show(screen.overview(course.progress(), course))
        show_next(course)

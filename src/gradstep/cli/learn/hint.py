"""``gradstep learn hint``."""

from typing import Annotated

import typer

from gradstep.cli.learn.shared import Current, Dir, Torch, asked, show, show_next, told


def hint(
    name: Current = None,
    torch: Torch = None,
    dir_: Dir = None,
    again: Annotated[bool, typer.Option("--again", help="Show those that you have had already.")] = False,
) -> None:
    """One more hint: about the mistake that the last check found, then on how to write it."""
    from gradstep.learn import screen

    with told(dir_) as course:
        challenge, framework = course.challenge(name), course.framework(asked(torch))
        one = None if again else course.hint(challenge, framework)
        show(*screen.hints(challenge, framework, course.hints(challenge, framework) if again else [one]))
        spent = not again and one is None and course.tried(challenge, framework)
        show_next(course, f"gradstep learn {'solution' if spent else 'check'} {challenge.name}{course.option}")

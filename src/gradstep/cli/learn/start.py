"""``gradstep learn start``."""

from gradstep.cli.learn.shared import Dir, Name, Torch, asked, show, show_next, told


def start(name: Name, torch: Torch = None, dir_: Dir = None) -> None:
    """Read about a challenge, and get a file to write it in. A file that is there already stays as it is."""
    from gradstep.learn import screen
    from gradstep.learn.challenges import challenge_named

    with told(dir_) as course:
        challenge, framework = challenge_named(name), course.framework(asked(torch))
        show(screen.started(challenge, framework, course.start(challenge, framework)))
        show_next(course, f"write it, then gradstep learn check {challenge.name}{course.option}")

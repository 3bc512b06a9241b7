"""``gradstep learn notebook``."""

from gradstep.cli.learn.shared import Dir, Name, Torch, asked, show, show_next, told


def notebook(name: Name, torch: Torch = None, dir_: Dir = None) -> None:
    """Write a challenge as a Jupyter notebook: text, file, check, hints, pictures and questions in one place."""
    from gradstep.learn.challenges import challenge_named
    from gradstep.learn.notebook import write

    with told(dir_) as course:
        challenge, framework = challenge_named(name), course.framework(asked(torch))
        file, made = write(challenge, framework, course.folder)
        show(f"Written: {file}" if made else f"Already there, left as it is: {file}")
        show_next(course, f"jupyter lab {file}")

"""``gradstep learn run``."""

from typing import Annotated

import typer

from gradstep.cli.learn.shared import Dir, show, show_next, told


def run(
    experiment: Annotated[str | None, typer.Argument(help="Which one; without a name they are listed.")] = None,
    dir_: Dir = None,
) -> None:
    """Run an experiment: figures here, and a picture in the course's folder."""
    from gradstep.learn import screen
    from gradstep.learn.experiments import EXPERIMENTS

    with told(dir_) as course:
        if experiment is None:
            show(*(f"{each.name:16} {each.title}" for each in EXPERIMENTS.values()))
            show_next(course, f"gradstep learn run {next(iter(EXPERIMENTS))}{course.option}")
            return
        if experiment not in EXPERIMENTS:
            raise ValueError(f"no experiment {experiment!r}: there are {', '.join(EXPERIMENTS)}")
        chosen = EXPERIMENTS[experiment]
        show(screen.asked(chosen))
        finding = chosen.run()
        show(screen.found(finding), f"\nPicture: {finding.save(course.folder / f'{chosen.name}.svg')}")
        course.ran(chosen.name)
        show_next(course)

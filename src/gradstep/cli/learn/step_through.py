"""``gradstep learn step-through``."""

from typing import Annotated

import typer

from gradstep.cli.learn.shared import Dir, attended, show, show_next, told


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

    with told(dir_) as course:
        rule = replace(steps.EXAMPLE, lr=lr, weight_decay=weight_decay)
        lines = steps.step_through(weight, gradient or (0.02,), rule)
        wait = attended() and not all_
        show(
            f"AdamW with lr {lr:g}, betas {rule.betas}, eps {rule.eps:g}, decay {weight_decay:g}; "
            f"the weight is {weight:g}."
        )
        for line in lines:
            show(screen.line(line))
            if wait and line is not lines[-1]:
                input()
        show_next(course)

"""``gradstep race`` and ``gradstep report``."""

import os
from pathlib import Path
from typing import Annotated

import typer

from gradstep.cli.screen import INTERRUPTED, console, usage_errors, waiting


def race(
    tasks: Annotated[
        list[str] | None,
        typer.Argument(metavar="[TASK]...", help="What to train: digits, text, ...; all by default."),
    ] = None,
    optimizers: Annotated[
        str | None,
        typer.Option(
            "--optimizers",
            "-o",
            help="The optimizers: name[:key=value,...], comma-separated, as in adamw,sgd:lr=0.1,momentum=0.9.",
        ),
    ] = None,
    peers: Annotated[bool, typer.Option("--peers", help="Also race torch.optim's class of the same name.")] = False,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="Few steps, of the tasks that can show a difference by then: about 45 s."),
    ] = False,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of each optimizer; by default the task's.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each optimizer, each from other random weights.")] = 3,
    start: Annotated[
        str | None, typer.Option(metavar="X,Y", help="Start of the paths over a surface, as in --start=-1,1.")
    ] = None,
    clip: Annotated[
        float | None, typer.Option(help="Clip gradients to this norm before every step; by default no clipping.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder under which results and report are put.")] = Path("runs"),
    list_: Annotated[bool, typer.Option("--list", help="List the tasks and optimizers, and end.")] = False,
) -> None:
    """Train the same model from the same start with each optimizer, and compare."""
    # Set before torch is loaded: torch's threads wait for each other in a busy loop, which makes a step ten times
    # slower if other programs use the cores. Sleeping threads cost almost nothing, and all contenders the same.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    with waiting("loading PyTorch"):
        from gradstep.lab import session, terminal
        from gradstep.lab.display import display_for

    screen = console()
    if list_:
        screen.print(terminal.listing())
        return
    with waiting("preparing the race"), usage_errors(ValueError, TypeError, NotADirectoryError):
        plan = session.plan(
            tasks=tasks or [],
            optimizers=optimizers,
            peers=peers,
            quick=quick,
            steps=steps,
            seeds=seeds,
            start=start,
            clip=clip,
            out=out,
        )
    try:
        outcome = session.run(plan, display_for(screen))
    except OSError as error:
        screen.print(f"Cannot write the results: {error}. What was written stays; --out chooses another folder.")
        raise typer.Exit(1) from error
    screen.print(terminal.closing(outcome), soft_wrap=True)
    if outcome.interrupted:
        raise typer.Exit(INTERRUPTED)


def report(
    run: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="Folder of a race, such as one under runs/.")],
) -> None:
    """Build the report of a race again from its results."""
    from gradstep.lab.report import write_report

    with usage_errors(ValueError, FileNotFoundError):
        file = write_report(run)
    console().print(f"Report: {file}", soft_wrap=True)

"""The command line: parses and prints. What it does lives in the rooms below."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

app = typer.Typer(
    name="gradstep",
    help="Optimizers for training neural networks: race them, measure them, choose one.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""


WIDE = 150
"""Columns of a log or a pipe, where nothing is gained by wrapping a table."""


def _console() -> Console:
    return Console() if sys.stdout.isatty() else Console(width=WIDE)


@app.callback()
def gradstep() -> None:
    """Keep the commands' names even while there are few."""


@app.command()
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
            help="Who races: name[:key=value,...], comma-separated, as in adamw,sgd:lr=0.1,momentum=0.9.",
        ),
    ] = None,
    peers: Annotated[bool, typer.Option("--peers", help="Add torch.optim's own class for each as a rival.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="A short race: all tasks within 45 seconds.")] = False,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of each optimizer; by default the task's.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each optimizer, each from a start of its own.")] = 1,
    out: Annotated[Path, typer.Option(help="Folder under which results and report are put.")] = Path("runs"),
    list_: Annotated[bool, typer.Option("--list", help="List the tasks and optimizers, and end.")] = False,
) -> None:
    """Train the same model from the same start with each optimizer, and compare."""
    # Before torch is loaded: its threads wait for each other in a busy loop, which makes a step ten times
    # slower where other programs want the cores. Asleep they cost next to nothing, and all contenders the same.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    from gradstep.lab import session, terminal
    from gradstep.lab.display import display_for

    console = _console()
    if list_:
        console.print(terminal.listing())
        return
    try:
        plan = session.plan(
            tasks=tasks or [],
            optimizers=optimizers,
            peers=peers,
            quick=quick,
            steps=steps,
            seeds=seeds,
            out=out,
        )
    except (ValueError, TypeError, NotADirectoryError) as error:
        raise typer.BadParameter(str(error)) from error
    try:
        outcome = session.run(plan, display_for(console))
    except OSError as error:
        console.print(f"Cannot write the results: {error}. What was written stays; --out chooses another folder.")
        raise typer.Exit(1) from error
    console.print(terminal.closing(outcome), soft_wrap=True)
    if outcome.interrupted:
        raise typer.Exit(INTERRUPTED)


@app.command()
def report(
    run: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="Folder of a race, such as one under runs/.")],
) -> None:
    """Build the report of a race again from its results."""
    from gradstep.lab.report import write_report

    try:
        file = write_report(run)
    except (ValueError, FileNotFoundError) as error:
        raise typer.BadParameter(str(error)) from error
    _console().print(f"Report: {file}", soft_wrap=True)


@app.command()
def bench(
    quick: Annotated[bool, typer.Option("--quick", help="Few repetitions: about ten seconds.")] = False,
    repeat: Annotated[
        int | None, typer.Option(min=1, help="Repetitions of each case; short steps are repeated more.")
    ] = None,
    rules: Annotated[
        str,
        typer.Option(help="Also measure these rules on 25 M parameters: all, or names separated by commas."),
    ] = "",
    json: Annotated[Path | None, typer.Option(help="Write every measured time to this file.")] = None,
    chart: Annotated[Path, typer.Option(help="Draw the chart into this file.")] = Path("runs/bench.png"),
) -> None:
    """Time gradstep's step against torch's and against this machine's memory."""
    from gradstep.lab import bench as lab
    from gradstep.lab.bench_chart import check_chart, save_chart
    from gradstep.lab.bench_table import closing, watched

    try:
        check_chart(chart)
        cases = lab.cases(lab.rule_names(rules), lab.WORKS)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    console = _console()
    results = watched(cases, repeat or (lab.QUICK_REPEAT if quick else lab.REPEAT), console)
    if json is not None:
        results.save(json)
    console.print(closing(results, save_chart(results, chart)), soft_wrap=True)

"""``gradstep monitor`` and ``gradstep doctor``: show the record of a run, and diagnose it."""

import json as text
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from gradstep.cli.screen import console, usage_errors

if TYPE_CHECKING:
    from gradstep.monitor.doctor import Diagnosis, Finding


def monitor(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="A record, or the folder of a run that holds monitor.jsonl.")
    ],
    html: Annotated[
        Path | None, typer.Option(metavar="PAGE", help="Write the report, a page, to this file instead.")
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Keep showing a run that goes on, until Ctrl-C.")
    ] = False,
) -> None:
    """Show the record of a run, finished or still running."""
    from gradstep.monitor.lines import Reader
    from gradstep.monitor.view import view

    screen = console()
    with usage_errors(OSError, ValueError):
        reader = Reader(run)
        record = reader.read()
    if html is not None:
        from gradstep.monitor.report import write_run_report

        with usage_errors(ValueError):
            page = write_run_report(record, html)
        screen.print(f"Report: {page}", soft_wrap=True)
        return
    if not (follow and screen.is_terminal):
        screen.print(view(record, screen.width), soft_wrap=True)
        return
    from rich.live import Live

    with Live(view(record, screen.width), console=screen, auto_refresh=False) as live:
        try:
            while True:
                time.sleep(1.0)
                live.update(view(reader.read(), screen.width), refresh=True)
        except KeyboardInterrupt:
            pass


UNREADABLE = 2


def doctor(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A record of gradstep.Monitor: the file, or its folder.")],
    json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Why a training run is unhealthy, in words. Exit codes: 0 nothing found, 1 something found, 2 unreadable."""
    from gradstep.monitor.doctor import diagnose

    try:
        diagnosis = diagnose(run)
    except (OSError, ValueError) as error:
        typer.echo(f"Cannot read {run}: {error}", err=True)
        raise typer.Exit(UNREADABLE) from error
    if json:
        typer.echo(text.dumps(diagnosis.as_dict(), indent=2, ensure_ascii=False))
    else:
        console().print(_diagnosis_table(diagnosis))
    raise typer.Exit(diagnosis.exit_code)


_COLOURS = {"critical": "bold red", "warning": "bold yellow", "hint": "bold cyan"}
"""Colour of a finding's title, by its severity."""


def _diagnosis_table(diagnosis: "Diagnosis") -> RenderableType:
    """Return the findings, the most likely first, and the readings."""
    parts: list[RenderableType] = [Text(diagnosis.headline, "bold green" if diagnosis.healthy else "bold")]
    for number, finding in enumerate(diagnosis.findings, 1):
        parts += [Text(""), _finding_block(number, finding)]
    if diagnosis.readings:
        grid = Table(box=None, pad_edge=False)
        for column in ("reading", "start → end", "median", "what it says"):
            grid.add_column(column, overflow="fold", justify="right" if column == "median" else "left")
        for reading in diagnosis.readings:
            course = f"{reading.first:.3g} → {reading.last:.3g}"
            grid.add_row(reading.quantity, course, f"{reading.median:.3g}", Text(reading.meaning))
        parts += [Text(""), grid]
    return Group(*parts)


def _finding_block(number: int, finding: "Finding") -> RenderableType:
    cause = finding.cause
    head = Text.assemble(
        (f"{number}. {cause.title}", _COLOURS[cause.severity.value]), (f"  {cause.severity.value}", "dim")
    )
    if finding.because_of:
        head.append(f", likely a consequence of: {', '.join(finding.because_of)}", "dim")
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True, style="dim")
    grid.add_column(overflow="fold")
    for number_of_fact, fact in enumerate(finding.evidence):
        grid.add_row("" if number_of_fact else "seen", Text(str(fact)))
    grid.add_row("reading", Text(cause.reading))
    grid.add_row("remedy", Text(cause.remedy))
    return Group(head, Padding(grid, (0, 0, 0, 3)))

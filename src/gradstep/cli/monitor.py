"""``gradstep monitor``."""

import time
from pathlib import Path
from typing import Annotated

import typer

from gradstep.cli.screen import console


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
    try:
        reader = Reader(run)
        record = reader.read()
    except (OSError, ValueError) as error:
        raise typer.BadParameter(str(error)) from error
    if html is not None:
        from gradstep.monitor.report import write_report

        try:
            page = write_report(record, html)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error
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

"""``gradstep doctor``."""

import json as text
from pathlib import Path
from typing import Annotated

import typer

from gradstep.cli.screen import console

UNREADABLE = 2


def doctor(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A record of gradstep.Monitor: the file, or its folder.")],
    json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Why a training run is unhealthy, in words. Exit codes: 0 nothing found, 1 something found, 2 unreadable."""
    from gradstep.monitor.doctor import diagnose
    from gradstep.monitor.doctor.table import table

    try:
        diagnosis = diagnose(run)
    except (OSError, ValueError) as error:
        typer.echo(f"Cannot read {run}: {error}", err=True)
        raise typer.Exit(UNREADABLE) from error
    if json:
        typer.echo(text.dumps(diagnosis.as_dict(), indent=2, ensure_ascii=False))
    else:
        console().print(table(diagnosis))
    raise typer.Exit(diagnosis.exit_code)

"""``gradstep schedules``."""

from pathlib import Path
from typing import Annotated

import typer

from gradstep.cli.screen import console, usage_errors


def schedules(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[SCHEDULE]...", help="The schedules: cosine, wsd, one-cycle, ...; all by default."),
    ] = None,
    steps: Annotated[int, typer.Option(help="Length of each schedule, in updates.")] = 1000,
    warmup: Annotated[
        int | None,
        typer.Option(help="Updates of a linear warmup before each; by default only where the name says so."),
    ] = None,
    lr: Annotated[float, typer.Option(help="The highest value.")] = 1.0,
    out: Annotated[Path | None, typer.Option(help="Draw them together into this file (.svg or .html).")] = None,
) -> None:
    """Draw learning-rate schedules, together in one picture."""
    from rich.table import Table

    from gradstep.report import check_file
    from gradstep.report.words import number, sparkline
    from gradstep.schedules.gallery import draw_together, gallery

    with usage_errors(ValueError):
        if out is not None:
            check_file(out)
        drawn = gallery(names or (), steps=steps, warm=warmup, lr=lr)
    screen = console()
    table = Table(box=None, pad_edge=False, header_style="dim")
    for title in ("schedule", f"over {steps:,} updates", "first", "highest", "last"):
        table.add_column(title, justify="right" if title in ("first", "highest", "last") else "left", no_wrap=True)
    letters = min(48, max(12, screen.width - 56))
    for name, schedule in drawn.items():
        values = [schedule.value(update) for update in sorted({*range(0, steps, -(-steps // 2000)), steps - 1})]
        ends = (number(value) for value in (values[0], max(values), values[-1]))
        table.add_row(name, sparkline(values, letters, low=0.0), *ends)
    screen.print(table)
    if out is not None:
        title = f"{'Schedules' if len(drawn) > 1 else next(iter(drawn))} over {steps:,} updates"
        screen.print(f"Picture: {draw_together(drawn, steps, title).save(out)}", soft_wrap=True)

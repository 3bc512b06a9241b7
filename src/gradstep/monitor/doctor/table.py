"""The diagnosis on a terminal; needs rich, of the extra ``lab``."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from gradstep.monitor.doctor.finding import Finding, Severity
from gradstep.monitor.doctor.report import Diagnosis

_COLOURS = {Severity.CRITICAL: "bold red", Severity.WARNING: "bold yellow", Severity.HINT: "bold cyan"}


def table(diagnosis: Diagnosis) -> RenderableType:
    """The findings, the likeliest first, and the readings."""
    parts: list[RenderableType] = [Text(diagnosis.headline, "bold green" if diagnosis.healthy else "bold")]
    for number, finding in enumerate(diagnosis.findings, 1):
        parts += [Text(""), _finding(number, finding)]
    if diagnosis.readings:
        grid = Table(box=None, pad_edge=False)
        for column in ("reading", "start → end", "median", "what it says"):
            grid.add_column(column, overflow="fold", justify="right" if column == "median" else "left")
        for reading in diagnosis.readings:
            course = f"{reading.first:.3g} → {reading.last:.3g}"
            grid.add_row(reading.quantity, course, f"{reading.median:.3g}", Text(reading.meaning))
        parts += [Text(""), grid]
    return Group(*parts)


def _finding(number: int, finding: Finding) -> RenderableType:
    cause = finding.cause
    head = Text.assemble((f"{number}. {cause.title}", _COLOURS[cause.severity]), (f"  {cause.severity.value}", "dim"))
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

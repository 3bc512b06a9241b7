"""Show a run on a terminal: the latest numbers, their course so far, and remarks."""

import math
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from gradstep.monitor.record import METRICS, Run, Update, reading
from gradstep.report.words import sparkline

WIDE_TABLE = 120
"""Terminal columns from which all columns of the table are shown."""
LONGEST = 40
"""Most characters of a sparkline."""
STYLES = {"good": "green", "notable": "yellow", "bad": "bold red", "": ""}


def view(run: Run, width: int = WIDE_TABLE) -> RenderableType:
    """Return the view of a run, a renderable of rich.

    Args:
        run: a record.
        width: columns of the terminal; below ``WIDE_TABLE``, the lowest and highest values are left out.
    """
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("")
    table.add_column("now", justify="right", min_width=10)
    table.add_column("so far")
    if width >= WIDE_TABLE:
        table.add_column("lowest", justify="right", style="dim")
        table.add_column("highest", justify="right", style="dim")
    table.add_column("")
    made = run.made
    letters = LONGEST if width >= WIDE_TABLE else max(4, min(LONGEST, width - 66))
    for metric in METRICS:
        values = [value for update in made if (value := metric.value(update)) is not None]
        if values:
            words, alarm = reading(metric.name, values[-1])
            finite = [value for value in values if math.isfinite(value)]
            ends = [metric.text(fold(finite)) if finite else "–" for fold in (min, max)] if width >= WIDE_TABLE else []
            now = Text(metric.text(values[-1]), style=STYLES[alarm])
            table.add_row(
                metric.title, now, sparkline(values, letters, log=metric.log), *ends, Text(words, style=STYLES[alarm])
            )
    lines = [_title(run), _progress(run), Text(""), table]
    last = next((update for update in reversed(run.updates) if update.skipped), None)
    if last is not None:
        count = sum(bool(update.skipped) for update in run.updates)
        lines += [Text(f"{count:,} skipped; the last at update {last.update:,}: {last.skipped}", style="yellow")]
    missing = [p.name for p in run.header.unregistered]
    if missing:
        names = ", ".join([*missing[:3], *(["…"] if len(missing) > 3 else [])])
        words = f"{len(missing):,} parameter{'s' if len(missing) > 1 else ''} ({names})"
        lines += [Text(f"not in the optimizer: {words}", style="yellow")]
    return Group(*lines)


def _title(run: Run) -> RenderableType:
    header = run.header
    elements = sum(p.elements for p in header.parameters)
    facts = f"{elements:,} parameters in {len(header.parameters):,} tensors, {len(header.groups)} groups"
    return Text.assemble((f"{header.package}.{header.optimizer}", "bold"), f"  {facts}  ", (header.started, "dim"))


def _progress(run: Run) -> RenderableType:
    made = run.made
    if not made:
        return Text("no update yet")
    count, planned = made[-1].update + 1, run.header.planned_updates
    text = f"{count:,} updates" if planned is None else f"{count:,} of {planned:,} updates ({count / planned:.0%})"
    rate = pace(made)
    if rate:
        text += f", {rate:.3g} a second"
        if planned is not None and planned > count:
            text += f", {_duration((planned - count) / rate)} to go"
    return Text(text)


def pace(made: Sequence[Update]) -> float | None:
    """Return the updates per second over the last hundred records; None if there are too few."""
    first, last = made[-min(100, len(made))], made[-1]
    return (last.update - first.update) / (last.time - first.time) if last.time > first.time else None


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"

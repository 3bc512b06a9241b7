"""The table of a benchmark: on the terminal, and as Markdown."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from gradstep.lab.bench import (
    DEFAULT,
    FOREACH,
    FUSED,
    MEMORY,
    OURS,
    Case,
    Results,
    Row,
    repetitions,
    run,
)
from gradstep.lab.words import UNKNOWN, percent, seconds

BUSY = 0.05
"""Share of the processors which, taken by other programs, disturbs the figures."""

PEERS = (FUSED, FOREACH, DEFAULT)


def _times(ratio: float | None) -> str:
    return UNKNOWN if ratio is None else f"{ratio:.2f}×" if ratio < 10 else f"{ratio:.1f}×"


def _cells(row: Row) -> list[str]:
    return [
        row.title,
        seconds(row.median(OURS)),
        *(seconds(row.median(peer)) for peer in PEERS),
        *(_times(row.ratio(peer)) for peer in PEERS),
        percent(row.ratio(MEMORY)),
    ]


TITLES = (
    "one step",
    OURS,
    *PEERS,
    *(f"× {peer.removeprefix('torch ')}" for peer in PEERS),
    "of memory speed",
)

NOTE = (
    "Medians of steps taken in turns in one process. × is how many times as long torch's step takes. "
    "With clipping, torch's is clip_grad_norm_ and then the fused step. "
    "Memory speed is that of a plain loop with the same traffic, 28 bytes a parameter."
)


EVERY = 0.5
"""Seconds between two pictures of the bar. They are drawn between repetitions: a thread that draws meanwhile takes
Python's lock from a step, which doubled the median of one of 2 ms."""


def watched(cases: Sequence[Case], repeat: int, console: Console) -> Results:
    """Measure all cases under a bar that shows how far it is."""
    bar = Progress(
        BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"),
        console=console, transient=True, auto_refresh=False,
    )  # fmt: skip
    drawn = time.monotonic()

    def tick(title: str) -> None:
        nonlocal drawn
        due = time.monotonic() > drawn + EVERY
        bar.update(task, advance=1, description=title, refresh=due)
        drawn = time.monotonic() if due else drawn

    with bar:
        task = bar.add_task("", total=sum(repetitions(case, repeat) for case in cases))
        return run(cases, repeat, tick)


def closing(results: Results, chart: Path) -> RenderableType:
    """What is printed at the end: the machine, the table, where the chart is."""
    machine = results.machine
    head = f"{machine['processor']}, {machine['torch threads']} threads, torch {machine['torch']}"
    parts = [Text(head + "\n", style="dim"), table(results)]
    if results.others is not None and results.others > BUSY:
        taken = f"Other programs took {percent(results.others)} of the processors meanwhile: figures may be off."
        parts.append(Text(f"\n{taken}", style="yellow"))
    return Group(*parts, Text(f"\nChart: {chart}"))


def table(results: Results) -> RenderableType:
    """For the terminal."""
    shown = Table(box=None, pad_edge=False)
    for index, title in enumerate(TITLES):
        shown.add_column(title, justify="right" if index else "left", no_wrap=not index)
    for row in results.rows:
        name, *cells = _cells(row)
        bold = [
            Text(cell, style="bold green" if cell.endswith("×") and row_won(row, peer) else "")
            for cell, peer in zip(cells, (OURS, *PEERS, *PEERS, MEMORY), strict=True)
        ]
        shown.add_row(name, *bold)
    return Group(shown, Text(f"\n{NOTE}", style="dim"))


def row_won(row: Row, peer: str) -> bool:
    """Whether gradstep's step is at least as fast as the peer's."""
    return (row.ratio(peer) or 0.0) >= 1.0


def markdown(results: Results) -> str:
    """For a document."""
    lines = [_line(TITLES), _line(["---", *["---:"] * (len(TITLES) - 1)])]
    lines += [_line(_cells(row)) for row in results.rows]
    return "\n".join(lines) + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"

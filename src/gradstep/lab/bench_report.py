"""Show the results of a benchmark: a table on the terminal and in Markdown, and a chart."""

import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from gradstep.lab.bench import (
    GRADSTEP_RIVALS,
    LARGE_WORK,
    MEMORY,
    OURS,
    OURS_8BIT,
    OURS_NAMED,
    TORCH_DEFAULT,
    TORCH_FOREACH,
    TORCH_FUSED,
    BenchResults,
    Case,
    CaseResult,
    repetitions,
    run_cases,
)
from gradstep.report import Bar, BarChart, Grid
from gradstep.report.words import UNKNOWN, percent, seconds

BUSY = 0.05
"""The figures count as disturbed when other programs take a larger share of the processors."""

TORCH_RIVALS = (TORCH_FUSED, TORCH_FOREACH, TORCH_DEFAULT)

CLIPPED = "clipping"
"""A word in the titles of the cases with clipping."""

PARITY = 0.03
"""The largest distance of a ratio from 1 that is called parity."""

RIVAL_STATES = {OURS: "float32", OURS_8BIT: "8-bit state", OURS_NAMED: "8-bit state, embeddings float32"}


def times(ratio: float | None) -> str:
    """Return a ratio as text: "1.43×", "11.4×"."""
    return UNKNOWN if ratio is None else f"{ratio:.2f}×" if ratio < 10 else f"{ratio:.1f}×"


def _format_ratio_to_fused(row: CaseResult, ours: str) -> str:
    """Return torch's fused step over ours, with quartiles: "1.43× (1.40 to 1.47)", "parity, 1.01× (0.99 to 1.02)"."""
    ratio, quartiles = row.ratio(TORCH_FUSED, ours), row.quartiles(TORCH_FUSED, ours)
    if ratio is None or quartiles is None:
        return UNKNOWN
    word = "parity, " * (abs(ratio - 1) <= PARITY)
    digits = 2 if ratio < 10 else 1
    return f"{word}{times(ratio)} ({quartiles[0]:.{digits}f} to {quartiles[1]:.{digits}f})"


def lines(results: BenchResults) -> list[tuple[str, CaseResult]]:
    """Return the lines of the table, each a contender of gradstep and its row.

    8-bit state comes first, then float32, then clipping, and the single matrix last.
    """
    every = [(ours, row) for ours in (OURS_8BIT, OURS_NAMED, OURS) for row in results.rows if ours in row.seconds]
    return sorted(
        every, key=lambda line: (LARGE_WORK.title in line[1].title, CLIPPED in line[1].title, line[0] == OURS)
    )


def _title(ours: str, row: CaseResult) -> str:
    name, _, work = row.title.partition(", ")
    alone = len([kind for kind in RIVAL_STATES if kind in row.seconds]) == 1
    return row.title if alone else f"{name}, {RIVAL_STATES[ours]}, {work}"


def _cells(ours: str, row: CaseResult) -> list[str]:
    return [
        _title(ours, row),
        seconds(row.median(ours)),
        *(seconds(row.median(peer)) for peer in TORCH_RIVALS),
        _format_ratio_to_fused(row, ours),
        *(times(row.ratio(peer, ours)) for peer in TORCH_RIVALS[1:]),
        percent(row.memory_share() if ours == OURS else None),
    ]


COLUMN_TITLES = (
    "one step",
    OURS,
    *TORCH_RIVALS,
    "× fused (quartiles)",
    *(f"× {peer.removeprefix('torch ')}" for peer in TORCH_RIVALS[1:]),
    "of memory speed",
)

NOTE = (
    "Medians of steps taken in turns in one process. × is how many times as long torch's float32 step takes; in "
    "brackets the quartiles of that ratio over the repetitions; parity is a ratio within 3 % of 1. "
    "With clipping, torch's is clip_grad_norm_ and then the fused step. "
    "Memory speed is that of the fastest of six plain loops with the same traffic, 28 bytes a parameter, "
    "and of torch's fused step."
)


REDRAW_SECONDS = 0.5
"""Time between two drawings of the progress bar. They happen between repetitions: a drawing thread takes Python's lock
from a step, which doubled the median of a step of 2 ms."""


def run_with_bar(cases: Sequence[Case], repeat: int, console: Console) -> BenchResults:
    """Measure all cases and show a progress bar."""
    bar = Progress(
        BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"),
        console=console, transient=True, auto_refresh=False,
    )  # fmt: skip
    last_drawing = time.monotonic()

    def tick(title: str) -> None:
        nonlocal last_drawing
        due = time.monotonic() > last_drawing + REDRAW_SECONDS
        bar.update(task, advance=1, description=title, refresh=due)
        last_drawing = time.monotonic() if due else last_drawing

    with bar:
        first = f"preparing {cases[0].title}" if cases else ""
        task = bar.add_task(first, total=sum(repetitions(case, repeat) for case in cases))
        return run_cases(cases, repeat, tick)


def summary(results: BenchResults, chart: Path) -> RenderableType:
    """Return the last output: the machine, the table, the chosen access patterns, and where the chart is."""
    parts: list[RenderableType] = [Text(machine_line(results) + "\n", style="dim"), draw_cases(results)]
    if results.access:
        parts.append(
            Text("\n".join(["\nAccess patterns that were chosen by measuring:", *results.access]), style="dim")
        )
    if results.others is not None and results.others > BUSY:
        warning = f"Other programs took {percent(results.others)} of the processors meanwhile: figures may be off."
        parts.append(Text(f"\n{warning}", style="yellow"))
    return Group(*parts, Text(f"\nChart: {chart}"))


def machine_line(results: BenchResults) -> str:
    """Return the processor, the threads, torch's version and the date as one line."""
    machine = results.machine
    return (
        f"{machine['processor']}, {machine['cores']} cores, {machine['torch threads']} threads, "
        f"torch {machine['torch']}, {results.date}"
    )


def draw_cases(results: BenchResults) -> RenderableType:
    """Return the table for a terminal."""
    shown = Table(box=None, pad_edge=False)
    for index, title in enumerate(COLUMN_TITLES):
        shown.add_column(title, justify="right" if index else "left", no_wrap=not index)
    for ours, row in lines(results):
        name, *cells = _cells(ours, row)
        styles = ["" if rival is None or not is_as_fast(row, rival, ours) else "bold green" for rival in COMPARED_TO]
        shown.add_row(name, *(Text(cell, style=style) for cell, style in zip(cells, styles, strict=True)))
    return Group(shown, Text(f"\n{NOTE}", style="dim"))


COMPARED_TO = (None, None, None, None, *TORCH_RIVALS, None)
"""The rival of each column, without the first column."""


def is_as_fast(row: CaseResult, rival: str, ours: str = OURS) -> bool:
    """Return whether gradstep's step is at least as fast as the rival's."""
    return (row.ratio(rival, ours) or 0.0) >= 1.0


def markdown(results: BenchResults) -> str:
    """Return the table in Markdown."""
    return markdown_table(COLUMN_TITLES, [_cells(*line) for line in lines(results)])


def markdown_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table; all columns but the first are aligned to the right."""
    every = [titles, ["---", *["---:"] * (len(titles) - 1)], *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in every)


def readme(every: Sequence[BenchResults]) -> str:
    """Return the README's table: ratios to torch's fused step, with a column for each processor."""
    cells: dict[str, list[str]] = {}
    for k, results in enumerate(every):
        for ours, row in lines(results):
            if TORCH_FUSED in row.seconds:
                cell = f"{_format_ratio_to_fused(row, ours)}, {seconds(row.median(ours))}"
                cells.setdefault(_title(ours, row).removeprefix("AdamW, "), [UNKNOWN] * len(every))[k] = cell
    titles = ("one AdamW step: times as fast (quartiles), time", *(r.machine["processor"] for r in every))
    machines = "; ".join(machine_line(results) for results in every)
    return f"Measured on: {machines}.\n\n{markdown_table(titles, [[name, *row] for name, row in cells.items()])}"


LIMIT = "memory speed"
RIVAL_COLOURS = {
    LIMIT: "green", OURS_8BIT: "amber", OURS_NAMED: "sand", OURS: "vermilion",
    TORCH_FUSED: "grey", TORCH_FOREACH: "grey", TORCH_DEFAULT: "pale",
}  # fmt: skip
"""In the order of the bars."""
RIVAL_NAMES = {OURS_8BIT: "8-bit state", OURS_NAMED: "8-bit, embeddings float32"}


def draw_benchmark(results: BenchResults) -> Grid:
    """Return a chart of the medians of all cases."""
    machine = results.machine
    note = f"{machine['processor']}, {machine['torch threads']} threads, torch {machine['torch']}, {results.date}"
    return Grid("One optimizer step: shorter is faster", [_panel(row) for row in results.rows], note=note)


def _medians(row: CaseResult) -> dict[str, float]:
    """Return the median of each contender; the memory loops count as one, the fastest."""
    medians = {name: row.median(name) or 0.0 for name in row.seconds}
    loops = [medians.pop(name) for name in MEMORY if name in medians]
    return {LIMIT: min(loops), **medians} if loops else medians


def _panel(row: CaseResult) -> BarChart:
    medians = _medians(row)
    bars = []
    for name in RIVAL_COLOURS:
        if name in medians:
            ratio = "" if name in (*GRADSTEP_RIVALS, LIMIT) else f", {row.ratio(name):.2f}×"
            bars.append(
                Bar(
                    RIVAL_NAMES.get(name, name),
                    [(1e3 * medians[name], RIVAL_COLOURS[name])],
                    seconds(medians[name]) + ratio,
                    bold=name in GRADSTEP_RIVALS,
                )
            )
    return BarChart(row.title, "ms, median; × as a multiple of gradstep's", bars)

"""The chart of a benchmark: a panel for each case, a bar for each rival."""

from __future__ import annotations

from gradstep.lab.bench import DEFAULT, FOREACH, FUSED, MEMORY, OURS, OURS_8BIT, OURS_NAMED, OWN, Results, Row
from gradstep.report import Bar, BarChart, Grid
from gradstep.report.words import seconds

LIMIT = "memory speed"
COLOURS = {
    LIMIT: "green", OURS_8BIT: "amber", OURS_NAMED: "sand", OURS: "vermilion",
    FUSED: "grey", FOREACH: "grey", DEFAULT: "pale",
}  # fmt: skip
"""In the order of the bars."""
NAMES = {OURS_8BIT: "8-bit state", OURS_NAMED: "8-bit, embeddings float32"}


def chart(results: Results) -> Grid:
    """The medians of all cases."""
    machine = results.machine
    note = f"{machine['processor']}, {machine['torch threads']} threads, torch {machine['torch']}, {results.date}"
    return Grid("One optimizer step: shorter is faster", [_panel(row) for row in results.rows], note=note)


def _medians(row: Row) -> dict[str, float]:
    """The median of each contender; of the loops over memory only that of the fastest."""
    medians = {name: row.median(name) or 0.0 for name in row.seconds}
    loops = [medians.pop(name) for name in MEMORY if name in medians]
    return {LIMIT: min(loops), **medians} if loops else medians


def _panel(row: Row) -> BarChart:
    medians = _medians(row)
    bars = []
    for name in COLOURS:
        if name in medians:
            ratio = "" if name in (*OWN, LIMIT) else f", {row.ratio(name):.2f}×"
            bars.append(
                Bar(
                    NAMES.get(name, name),
                    [(1e3 * medians[name], COLOURS[name])],
                    seconds(medians[name]) + ratio,
                    bold=name in OWN,
                )
            )
    return BarChart(row.title, "ms, median; × as a multiple of gradstep's", bars)

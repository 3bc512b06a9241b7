"""The chart of a benchmark: a panel for each case, a bar for each rival."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backend_bases import FigureCanvasBase
from matplotlib.figure import Figure

from gradstep.lab.bench import DEFAULT, FOREACH, FUSED, MEMORY, OURS, OURS_8BIT, OURS_NAMED, OWN, Results, Row
from gradstep.lab.palette import INK, QUIET, REST
from gradstep.lab.words import seconds

LIMIT = "memory speed"
COLOURS = {
    OURS: "#D55E00", OURS_8BIT: "#E69F00", OURS_NAMED: "#F0C060",
    LIMIT: "#009E73", FUSED: "#6B7785", FOREACH: "#9AA5B1", DEFAULT: REST,
}  # fmt: skip
ORDER = (LIMIT, OURS_8BIT, OURS_NAMED, OURS, FUSED, FOREACH, DEFAULT)
NAMES = {OURS_8BIT: "8-bit state", OURS_NAMED: "8-bit, embeddings\nfloat32"}
BAR, HEAD, FOOT, WIDTH, LEFT = 0.26, 0.34, 0.14, 8.6, 1.5
"""In inches: heights of a bar, of a panel's title, of what is below; widths of the figure, of the names."""


def check_chart(file: Path) -> None:
    """Refuse a file name that says no format that charts can be saved in.

    Raises:
        ValueError: naming the formats.
    """
    formats = sorted(FigureCanvasBase.get_supported_filetypes())
    if file.suffix.removeprefix(".").lower() not in formats:
        raise ValueError(f"the chart {file} needs an ending that says its format: {', '.join(formats)}")


def save_chart(results: Results, file: Path) -> Path:
    """Draw the medians of all cases and save them (PNG, SVG or PDF, by the file's name)."""
    heights = [HEAD + BAR * len(_medians(row)) + FOOT for row in results.rows]
    top, bottom = 0.5, 0.35
    height = top + sum(heights) + bottom
    figure = Figure(figsize=(WIDTH, height), facecolor="white")
    figure.text(
        0.1 / WIDTH, 1 - 0.12 / height, "One optimizer step: shorter is faster (× as a multiple of gradstep's)",
        va="top", fontsize=13, fontweight="bold", color=INK,
    )  # fmt: skip
    y = height - top
    for row, tall in zip(results.rows, heights, strict=True):
        place = (LEFT / WIDTH, (y - tall + FOOT) / height, 0.97 - LEFT / WIDTH, (tall - HEAD - FOOT) / height)
        _panel(figure.add_axes(place), row)
        y -= tall
    machine = results.machine
    words = f"{machine['processor']}, {machine['torch threads']} threads, torch {machine['torch']}"
    figure.text(0.1 / WIDTH, 0.1 / height, f"{words}, {results.date}", fontsize=8, color=QUIET)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=160)
    return file


def _medians(row: Row) -> dict[str, float]:
    """The median of each contender; of the loops over memory only that of the fastest."""
    medians = {name: row.median(name) or 0.0 for name in row.seconds}
    loops = [medians.pop(name) for name in MEMORY if name in medians]
    return {LIMIT: min(loops), **medians} if loops else medians


def _panel(axes: Axes, row: Row) -> None:
    by_name = _medians(row)
    rivals = [name for name in ORDER if name in by_name]
    medians = [by_name[name] for name in rivals]
    longest = max(medians)
    axes.barh(range(len(rivals)), medians, color=[COLOURS[name] for name in rivals], height=0.74)
    for index, (name, median) in enumerate(zip(rivals, medians, strict=True)):
        ratio = "" if name in (*OWN, LIMIT) else f"   {row.ratio(name):.2f}×"
        text = f"{seconds(median)}{ratio}"
        axes.text(
            median + 0.01 * longest, index, text, va="center", fontsize=9, color=INK,
            fontweight="bold" if name in OWN else "normal",
        )  # fmt: skip
    axes.set_yticks(range(len(rivals)), [NAMES.get(name, name) for name in rivals])
    axes.set_ylim(len(rivals) - 0.5, -0.5)
    axes.set_xlim(0, longest * 1.2)
    axes.set_title(row.title, loc="left", fontsize=10, color=INK, fontweight="bold", pad=4)
    axes.set_xticks([])
    axes.tick_params(axis="y", length=0, labelsize=9, labelcolor=INK)
    for spine in axes.spines.values():
        spine.set_visible(False)

"""The PNGs of a report, drawn with matplotlib."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.figure import Figure

from gradstep.lab.palette import DEPTH, GRID, INK, QUIET, REST, colours
from gradstep.lab.plotdata import LossPlot, loss_plot, panels
from gradstep.lab.results import Results
from gradstep.lab.standings import Standing, path, standings
from gradstep.lab.task import Task
from gradstep.lab.tasks import TASKS
from gradstep.lab.tasks.surface import Surface, relief
from gradstep.lab.words import number, percent, seconds, size

DPI = 144
LETTER = 0.0083
"""Width of a letter of a line's name, as a share of the picture."""
TITLE: dict[str, Any] = {"fontsize": 13, "fontweight": "bold", "color": INK}
PALE = LinearSegmentedColormap.from_list("pale", ["#8FA6BA", "#C5D2DD", "#EEF2F5", "#FFFFFF"])


def save_pictures(results: Results, folder: Path) -> list[Path]:
    """Draw every picture of a race into `folder`; the files, named by the task and what they show."""
    task = TASKS[results.header.task]
    figures = {"loss": _losses(results, task, over_time=False)}
    if isinstance(task, Surface):
        figures["path"] = _paths(results, task)
    else:
        figures["loss-over-time"] = _losses(results, task, over_time=True)
        figures["time"] = _times(results, task)
        figures["memory"] = _memory(results, task)
    files = []
    for name, figure in figures.items():
        files.append(folder / f"{task.name}-{name}.png")
        figure.savefig(files[-1], dpi=DPI)
    return files


def _losses(results: Results, task: Task, over_time: bool) -> Figure:
    plot = loss_plot(results, over_time)
    longest = LETTER * max((len(line.label) for line in plot.lines), default=0)
    figure, axes = _figure(
        9.0, 5.2, f"{task.title}: {task.loss_word} over {'time' if over_time else 'steps'}", right=0.96 - longest
    )
    for line in plot.lines:
        style = (0, (4, 2.5)) if line.dashed else "solid"
        axes.plot(line.x, line.y, color=line.colour, linewidth=1.9, linestyle=style)
        if plot.has_band:
            axes.fill_between(line.x, line.low, line.high, color=line.colour, alpha=0.12, linewidth=0)
    axes.set_xlim(0, plot.x_end)
    axes.set_ylim(plot.window.low, plot.window.high)
    if plot.window.log:
        axes.set_yscale("log")
        axes.set_ylim(plot.window.low, plot.window.high)
    axes.set_xlabel(plot.x_title)
    axes.set_ylabel(plot.y_title)
    _name_lines(axes, plot)
    return figure


def _name_lines(axes: Axes, plot: LossPlot) -> None:
    """Each line's name at the right edge, tied to the line's end."""
    edge = plot.x_end * 1.025
    for line in plot.lines:
        if line.x:
            end = plot.window.clip(line.y[-1])
            axes.plot(
                [line.x[-1], plot.x_end, edge], [end, end, line.name_at],
                color=line.colour, linewidth=0.8, linestyle=":", alpha=0.8, clip_on=False,
            )  # fmt: skip
        axes.text(edge * 1.006, line.name_at, line.label, color=line.colour, va="center", fontsize=9)


def _times(results: Results, task: Task) -> Figure:
    table = [one for one in standings(results) if one.step is not None and one.optimizer is not None]
    table.sort(key=lambda one: -(one.step or 0.0))
    chosen = colours(results.header.contenders)
    figure, axes = _bars(f"{task.title}: where the time of a step goes", table)
    whole = [1e3 * (one.step or 0.0) for one in table]
    part = [1e3 * (one.optimizer or 0.0) for one in table]
    rows = range(len(table))
    axes.barh(rows, part, color=[chosen[one.entry.label] for one in table], height=0.66)
    axes.barh(rows, [w - p for w, p in zip(whole, part, strict=True)], left=part, color=REST, height=0.66)
    for row, one in enumerate(table):
        text = f"{seconds(one.optimizer)} of {seconds(one.step)}, {percent(one.share)}"
        axes.text(whole[row] + 0.012 * max(whole), row, text, va="center", fontsize=9, color=INK)
    axes.set_xlim(0, max(whole, default=1.0) * 1.42)
    axes.set_xlabel("ms a step, median: the optimizer (colour), forward and backward pass (grey)")
    return figure


def _memory(results: Results, task: Task) -> Figure:
    table = sorted(standings(results), key=lambda one: -one.state_bytes)
    chosen = colours(results.header.contenders)
    figure, axes = _bars(f"{task.title}: memory the optimizer keeps", table)
    each = [one.bytes_per_parameter for one in table]
    axes.barh(range(len(table)), each, color=[chosen[one.entry.label] for one in table], height=0.66)
    for row, one in enumerate(table):
        text = f"{each[row]:.2f} bytes, {size(one.state_bytes)} in all"
        axes.text(each[row] + 0.012 * max(each), row, text, va="center", fontsize=9, color=INK)
    axes.set_xlim(0, (max(each, default=0.0) or 1.0) * 1.36)
    axes.set_xlabel("bytes of state for each parameter")
    return figure


def _paths(results: Results, task: Surface) -> Figure:
    """The surface once for each contender, with that contender's path, best first."""
    table = standings(results)
    chosen = colours(results.header.contenders)
    rows, columns = panels(len(table))
    panel, gap, left, top = 2.2, 0.5, 0.4, 0.95
    width, height = columns * (panel * 1.3 + gap) + left, rows * (panel + gap) + top - 0.25
    figure = Figure(figsize=(width, height), facecolor="white")
    figure.text(0.1 / width, 1 - 0.14 / height, f"{task.title}: the paths", va="top", **TITLE)
    grid = relief(task, points=81)
    levels = np.geomspace(max(grid.z.min(), grid.z.max() * DEPTH), grid.z.max(), 12)
    for index, one in enumerate(table):
        row, column = divmod(index, columns)
        x_place = left + column * (panel * 1.3 + gap)
        y_place = height - top - row * (panel + gap) - panel + 0.1
        axes = figure.add_axes((x_place / width, y_place / height, panel * 1.3 / width, panel / height))
        axes.imshow(
            np.maximum(grid.z, levels[0]),
            extent=(*task.view[0], *task.view[1]),
            origin="lower",
            aspect="auto",
            interpolation="bilinear",
            cmap=PALE,
            norm=LogNorm(levels[0], levels[-1]),
        )
        axes.contour(grid.x, grid.y, grid.z, levels=levels[1:], colors="white", linewidths=0.5)
        places = path(results, one.entry.label)
        if places:
            x, y = zip(*places, strict=True)
            axes.plot(x, y, color=chosen[one.entry.label], linewidth=1.3, marker=".", markersize=2.5)
            axes.plot(x[0], y[0], "o", color="white", markeredgecolor=INK, markersize=5)
            axes.plot(x[-1], y[-1], "o", color=chosen[one.entry.label], markeredgecolor="white", markersize=6)
        axes.plot(*task.minimum, marker="+", color=INK, markersize=9, markeredgewidth=1.4)
        axes.set_xlim(*task.view[0])
        axes.set_ylim(*task.view[1])
        axes.set_title(one.entry.label, loc="left", fontsize=9.5, color=chosen[one.entry.label], fontweight="bold")
        axes.set_title(number(one.loss) if not one.diverged else "diverged", loc="right", fontsize=9, color=INK)
        axes.tick_params(labelsize=7, colors=QUIET, length=2)
        for spine in axes.spines.values():
            spine.set_color(GRID)
    return figure


def _bars(title: str, table: list[Standing]) -> tuple[Figure, Axes]:
    figure, axes = _figure(9.0, 1.5 + 0.36 * len(table), title, left=0.22)
    axes.set_yticks(range(len(table)), [one.entry.label for one in table])
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0, labelsize=9.5, labelcolor=INK)
    return figure, axes


def _figure(width: float, height: float, title: str, left: float = 0.1, right: float = 0.97) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), facecolor="white")
    axes = figure.add_axes((left, 0.62 / height, right - left, 1 - (0.62 + 0.62) / height))
    figure.text(0.1 / width, 1 - 0.14 / height, title, va="top", **TITLE)
    axes.grid(visible=True, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=QUIET, labelsize=9)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(GRID)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_color(QUIET)
        label.set_fontsize(9.5)
    return figure, axes

"""A schedule as a picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradstep.schedules.preview import horizon

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from gradstep.schedules.base import Schedule

_LINE, _BOUNDARY = "#0072B2", "#C9D1D9"
_POINTS = 2000
"""More cannot be told apart in a picture."""


def plot(schedule: Schedule, updates: int | None) -> Figure:
    """A figure of its own, without a window."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            'plot() draws with matplotlib, which is not installed: pip install "gradstep[lab]"', name=error.name
        ) from error

    figure = Figure(figsize=(6, 3.2), layout="constrained")
    axes = figure.add_subplot()
    draw(axes, schedule, updates)
    axes.set(xlabel="update", ylabel="value")
    return figure


def draw(axes: Axes, schedule: Schedule, updates: int | None = None) -> None:
    """The curve and its boundaries; every boundary is drawn with both updates beside it, so that a jump is one."""
    total = horizon(schedule, updates)
    boundaries = schedule.boundaries(total)
    shown = {0, total - 1, *range(0, total, -(-total // _POINTS)), *boundaries, *(b - 1 for b in boundaries)}
    for boundary in boundaries:
        axes.axvline(boundary, color=_BOUNDARY, linewidth=0.8)
    axes.plot(sorted(shown), [schedule.value(u) for u in sorted(shown)], color=_LINE)
    axes.set_ylim(bottom=0)
    axes.margins(x=0.02)
    axes.spines[["top", "right"]].set_visible(False)

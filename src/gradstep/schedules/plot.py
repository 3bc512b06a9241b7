"""A schedule as a picture, and several together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from gradstep.report import Grid, Line, LineChart, Picture
from gradstep.report.scales import fit
from gradstep.schedules.preview import horizon

if TYPE_CHECKING:
    from gradstep.schedules.base import Schedule

COLOURS = ("blue", "vermilion", "green", "amber", "wine", "sky")
"""Of schedules in one chart, as many as can be told apart there."""
_POINTS = 2000
"""More cannot be told apart in a picture."""


def plot(schedule: Schedule, updates: int | None, title: str = "Schedule") -> LineChart:
    """The curve and its boundaries."""
    total = horizon(schedule, updates)
    line = _line(schedule, total)
    marks = [(float(b), "") for b in schedule.boundaries(total)]
    return LineChart(title, "update", "value", [line], y=fit(line.y, include=[0.0]), marks=marks)


def together(schedules: Mapping[str, Schedule], updates: int, title: str) -> Picture:
    """Several schedules: in one chart if they are few, else each in its own."""
    if len(schedules) <= len(COLOURS):
        lines = [_line(one, updates, name, colour) for (name, one), colour in zip(schedules.items(), COLOURS)]
        scale = fit([y for line in lines for y in line.y], include=[0.0])
        return LineChart(title, "update", "value", lines, y=scale, tall=330.0)
    return Grid(title, [plot(one, updates, name) for name, one in schedules.items()], columns=3)


def _line(schedule: Schedule, total: int, name: str = "", colour: str = "blue") -> Line:
    """The curve; every boundary is drawn with both updates beside it, so that a jump is one."""
    boundaries = schedule.boundaries(total)
    shown = sorted({0, total - 1, *range(0, total, -(-total // _POINTS)), *boundaries, *(b - 1 for b in boundaries)})
    return Line(name, shown, [schedule.value(u) for u in shown], colour)

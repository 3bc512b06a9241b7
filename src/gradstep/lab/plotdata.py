"""What a chart of losses shows, worked out once for both the PNGs and the interactive charts."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from gradstep.lab.palette import colours
from gradstep.lab.results import Results
from gradstep.lab.standings import Curve, Standing, curve, standings
from gradstep.lab.task import Task
from gradstep.lab.tasks import TASKS

FLOOR = 1e-9
"""Least share of the starting loss that a logarithmic axis goes down to."""
HEADROOM = 1.15
"""How far above the starting loss a chart goes; what explodes leaves it at the top."""


@final
@dataclass(frozen=True)
class Window:
    """The part of the loss axis that is shown."""

    low: float
    high: float
    log: bool

    def fraction(self, value: float) -> float:
        """How far up the axis the value stands, in [0, 1]; the nearest end for one outside."""
        low, high, at = (self._scaled(one) for one in (self.low, self.high, min(max(value, self.low), self.high)))
        return (at - low) / (high - low)

    def value(self, fraction: float) -> float:
        """The value that stands at a fraction of the axis."""
        low, high = self._scaled(self.low), self._scaled(self.high)
        at = low + fraction * (high - low)
        return float(10**at) if self.log else at

    def clip(self, value: float) -> float:
        """The value, or the nearest end for one outside."""
        return min(max(value, self.low), self.high)

    def _scaled(self, value: float) -> float:
        return math.log10(value) if self.log else value


@final
@dataclass(frozen=True)
class Line:
    """One contender's line: points (x, y), a band between `low` and `high`, and the height of its name at the
    right.
    """

    label: str
    colour: str
    dashed: bool
    x: list[float]
    y: list[float]
    low: list[float]
    high: list[float]
    name_at: float


@final
@dataclass(frozen=True)
class LossPlot:
    """A chart of losses: its lines, best first, and its axes."""

    lines: list[Line]
    window: Window
    x_end: float
    x_title: str
    y_title: str
    has_band: bool


def loss_plot(results: Results, over_time: bool) -> LossPlot:
    """The loss over steps, or over seconds of training."""
    task = TASKS[results.header.task]
    table = standings(results)
    chosen = colours(results.header.contenders)
    curves = [curve(results, one.entry.label, lambda point: point.loss) for one in table]
    window = _window(curves, task)
    ends = [window.fraction(one.mean[-1]) if one.mean else 1.0 for one in curves]
    heights = spread(ends, gap=min(0.052, 1 / max(1, len(ends))))
    lines = [
        _line(standing, course, chosen[standing.entry.label], over_time, window, window.value(height))
        for standing, course, height in zip(table, curves, heights, strict=True)
    ]
    return LossPlot(
        lines=lines,
        window=window,
        x_end=max((line.x[-1] for line in lines if line.x), default=1.0) or 1.0,
        x_title="seconds of training" if over_time else "steps",
        y_title=task.loss_name,
        has_band=len(results.header.seeds) > 1,
    )


def _line(standing: Standing, course: Curve, colour: str, over_time: bool, window: Window, name_at: float) -> Line:
    # A logarithmic axis has no place for 0: what falls that far is drawn far below the chart.
    least = window.low * FLOOR if window.log else -math.inf
    return Line(
        label=standing.entry.label,
        colour=colour,
        dashed=standing.is_peer,
        x=list(course.seconds) if over_time else [float(step) for step in course.steps],
        y=[max(value, least) for value in course.mean],
        low=[max(value, least) for value in course.low],
        high=[max(value, least) for value in course.high],
        name_at=name_at,
    )


def _window(curves: Sequence[Curve], task: Task) -> Window:
    start = max((one.mean[0] for one in curves if one.mean), default=1.0) or 1.0
    least = min((_depth(one) for one in curves if one.mean), default=0.0)
    if task.log_loss:
        return Window(max(least, start * FLOOR) / HEADROOM, start * HEADROOM**2, log=True)
    margin = 0.05 * max(start - least, 0.1 * start)
    return Window(least - margin, start + margin, log=False)


def _depth(course: Curve) -> float:
    """How low a curve goes to stay: a tenth of its second half lies lower. A brief dip is no depth."""
    later = sorted(course.low[len(course.low) // 2 :])
    return later[len(later) // 10]


def spread(wanted: Sequence[float], gap: float) -> list[float]:
    """Heights in [0, 1] near the wanted ones and at least `gap` apart, in the same order.

    `gap` must be at most 1 / len(wanted), so that there is room.
    """
    order = sorted(range(len(wanted)), key=lambda index: wanted[index])
    heights = [0.0] * len(wanted)
    floor = 0.0
    for index in order:
        heights[index] = max(wanted[index], floor)
        floor = heights[index] + gap
    ceiling = 1.0
    for index in reversed(order):
        heights[index] = min(heights[index], ceiling)
        ceiling = heights[index] - gap
    return heights


def panels(count: int) -> tuple[int, int]:
    """Rows and columns for `count` panels: at most four columns, and as few empty places as can be."""
    columns = count if count <= 4 else min((4, 3), key=lambda columns: -count % columns)
    return math.ceil(count / columns), columns

"""Line charts and bar charts."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from gradstep.report.markup import Markup, decimal, join, paint, tag
from gradstep.report.picture import NARROW, Picture, draw_key, draw_paragraph, draw_path, draw_text, shorten, text_width
from gradstep.report.scales import Scale, fit, spread, thin
from gradstep.report.words import tick

DASHES = "6 4"
TALL = 230.0
"""Height of a line chart with its axes, in pixels."""


@final
@dataclass(frozen=True)
class Line:
    """A line of a chart, with a gap where ``y`` is None or not finite."""

    name: str  # label of the line; empty for the only line of a chart
    # x, y: its points, x ascending
    x: Sequence[float]
    y: Sequence[float | None]
    colour: str = "blue"  # a name of :data:`~gradstep.report.markup.COLOURS`
    # low, high: a band around the line, of the same length; empty for none
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    dashed: bool = False  # whether the line is dashed
    points: bool = False  # whether the points are drawn as dots without a line
    thickness: float = 2.0  # of the line, in pixels


@final
@dataclass(frozen=True)
class Level:
    """A reference across a chart, with a label: a value, or the range from it to ``high``."""

    value: float
    text: str
    colour: str = "quiet"
    high: float | None = None


@final
@dataclass(frozen=True)
class LineChart(Picture):
    """Lines over a common axis."""

    title: str  # of the chart
    # x_title, y_title: of the axes, with their units
    x_title: str
    y_title: str
    lines: Sequence[Line]  # drawn in this order
    # x, y: the axes; None: they fit the lines (:func:`~gradstep.report.scales.fit`)
    x: Scale | None = None
    y: Scale | None = None
    y_log: bool = False  # whether a fitted ``y`` axis is logarithmic; values that are not positive are then not drawn
    x_log: bool = False  # the same for ``x``
    levels: Sequence[Level] = ()  # references across the chart
    marks: Sequence[tuple[float, str]] = ()  # vertical lines: a place on the x axis and a label for each
    tall: float = TALL  # height in pixels
    # whether names stand to the right of their lines if there is room; else they stand above the chart
    beside: bool = True

    def scales(self) -> tuple[Scale, Scale]:
        """Return the x axis and the y axis."""
        xs = [x for line in self.lines for x in line.x]
        exact = not self.x_log and len(set(xs)) > 1
        x = self.x or (Scale(min(xs), max(xs)) if exact else fit(xs, log=self.x_log))
        values = [y for line in self.lines for y in (*line.y, *line.low, *line.high)]
        levels = [end for level in self.levels for end in (level.value, level.high) if end is not None]
        return x, self.y or fit(values, log=self.y_log, include=levels)

    def draw(self, width: float) -> tuple[float, Markup]:
        x, y = self.scales()
        named = [line for line in self.lines if line.name]
        beside = self.beside and width >= NARROW and len(named) > 1
        right = max(text_width(line.name) for line in named) + 24 if beside else 14.0
        right = min(right, 0.34 * width)
        parts: list[Markup] = []
        top = 0.0
        if named and not beside:
            unique = {line.name: (line.name, line.colour, DASHES if line.dashed else None) for line in named}
            top, shown = draw_key(list(unique.values()), width)
            parts.append(shown)
        labels = [(value, tick(value)) for value in y.ticks(5)]
        left = max([text_width(label) for _, label in labels], default=10) + 9
        height, shown = draw_paragraph(self.y_title, 0, top + 11, width)
        parts.append(shown)
        top += height + 6
        wide, tall = width - left - right, self.tall - 62
        for value, label in labels:
            at = top + tall * (1 - y.at(value))
            parts.append(draw_path(f"M{decimal(left)},{decimal(at)}h{decimal(wide)}", "grid"))
            parts.append(draw_text(label, left - 7, at + 4, "quiet", anchor="end"))
        parts += x_axis(x, left, top + tall, wide, width)
        parts.append(draw_text(self.x_title, left + wide, top + tall + 34, "quiet", anchor="end"))
        plot, notes = self._plot(x, y, wide, tall)
        axes = json.dumps([[scale.low, scale.high, int(scale.log)] for scale in (x, y)])  # for the script of a page
        parts.append(tag("svg", plot, x=left, y=top, width=wide, height=tall, class_="plot", data_hover=axes))
        parts.append(tag("g", notes, transform=f"translate({decimal(left)} {decimal(top)})"))
        if beside:
            parts += self._draw_names(y, left + wide, top, tall, right)
        return top + tall + 40, join(parts)

    def _plot(self, x: Scale, y: Scale, wide: float, tall: float) -> tuple[Markup, Markup]:
        """Return the elements that are clipped at the axes, and the labels on top of them."""
        parts: list[Markup] = []
        notes: list[Markup] = []
        for level in self.levels:
            at = tall * (1 - y.at(level.value))
            if level.high is not None:
                low, at = at, tall * (1 - y.at(level.high))
                shade = paint(fill=level.colour)
                parts.append(tag("rect", x=0, y=at, width=wide, height=low - at, opacity=0.09, **shade))
            else:
                parts.append(draw_path(f"M0,{decimal(at)}h{decimal(wide)}", level.colour, dashes="5 4"))
            notes.append(draw_text(level.text, wide - 4, at - 4, level.colour, anchor="end", size=11, halo=True))
        for place, text in self.marks:
            at = wide * x.at(place)
            parts.append(draw_path(f"M{decimal(at)},0v{decimal(tall)}", "pale"))
            shift, anchor = (-5, "end") if at > 0.7 * wide else (5, None)
            if text:
                notes.append(draw_text(text, at + shift, 11, "quiet", anchor=anchor, size=11, halo=True))
        for line in self.lines:
            parts += _line(line, x, y, wide, tall)
        return join(parts), join(notes)

    def _draw_names(self, y: Scale, left: float, top: float, tall: float, room: float) -> list[Markup]:
        """Draw each line's name to the right of the line's end, joined to it; lengths are pixels."""
        drawn = {line.name: line for line in self.lines if line.name}
        ends = [tall * (1 - min(1.0, max(0.0, y.at(_last(line.y, y))))) for line in drawn.values()]
        parts: list[Markup] = []
        for line, end, place in zip(drawn.values(), ends, spread(ends, 15.0, tall)):
            d = f"M{decimal(left)},{decimal(top + end)}l14,{decimal(place - end)}"
            parts.append(draw_path(d, line.colour, dashes=DASHES if line.dashed else None))
            parts.append(draw_text(shorten(line.name, room - 20), left + 18, top + place + 4))
        return parts


def _last(values: Sequence[float | None], y: Scale) -> float:
    """Return the last value of a line; the top of the axis if it is not finite."""
    numbers = [value for value in values if value is not None]
    return numbers[-1] if numbers and math.isfinite(numbers[-1]) else y.high


def x_axis(x: Scale, left: float, at: float, wide: float, width: float, end: float = math.inf) -> list[Markup]:
    """Draw a horizontal axis at the height ``at``, ``wide`` pixels long from ``left`` on, with ticks up to ``end``.

    The labels stay inside the picture's ``width``.
    """
    parts = [draw_path(f"M{decimal(left)},{decimal(at)}h{decimal(wide)}", "pale")]
    for value in x.ticks(max(3, int(wide / 75))):
        if value > end:
            break
        place, half = left + wide * x.at(value), text_width(tick(value)) / 2
        parts.append(draw_path(f"M{decimal(place)},{decimal(at)}v4", "pale"))
        parts.append(draw_text(tick(value), min(max(place, half), width - half), at + 17, "quiet", anchor="middle"))
    return parts


def _line(line: Line, x: Scale, y: Scale, wide: float, tall: float) -> list[Markup]:
    indices = thin(line.y, max(20, int(1.2 * wide)))
    across = {i: wide * x.at(line.x[i]) for i in indices}
    parts: list[Markup] = []
    if line.low and line.high:
        upper = [f"{across[i]:.1f},{tall * (1 - y.at(line.high[i])):.1f}" for i in indices]
        lower = [f"{across[i]:.1f},{tall * (1 - y.at(line.low[i])):.1f}" for i in reversed(indices)]
        d = f"M{'L'.join(upper + lower)}Z"
        parts.append(tag("path", d=d, opacity=0.16, data_name=line.name, **paint(fill=line.colour)))
    pieces: list[list[str]] = [[]]
    for i in indices:
        value = line.y[i]
        if value is None or not math.isfinite(value):
            pieces.append([])
        else:
            pieces[-1].append(f"{across[i]:.1f},{tall * (1 - y.at(value)):.1f}")
    if line.points or all(len(piece) < 2 for piece in pieces):
        dots = [point.split(",") for piece in pieces for point in piece]
        return parts + [
            tag("circle", cx=float(cx), cy=float(cy), r=3, data_name=line.name, **paint(fill=line.colour))
            for cx, cy in dots
        ]
    # A single point between two gaps shows as a dot: a line of length 0 with round ends.
    d = "".join(f"M{'L'.join(piece if len(piece) > 1 else piece * 2)}" for piece in pieces if piece)
    dashes, names = DASHES if line.dashed else None, {"data_name": line.name, "data_line": line.name or "value"}
    parts.append(draw_path(d, line.colour, line.thickness, dashes, stroke_linecap="round", **names))
    return parts


@final
@dataclass(frozen=True)
class Bar:
    """A row of a bar chart."""

    name: str  # label to the left of the bar
    # parts of the bar, each a length ≥ 0 and a colour (on a logarithmic axis one part, > 0)
    parts: Sequence[tuple[float, str]]
    text: str  # the numbers to the right of the bar
    bold: bool = False  # whether name and text are bold
    # ends of the spread around the whole length, drawn as a thin line; None for none
    ends: tuple[float, float] | None = None

    @property
    def whole(self) -> float:
        """The length of all parts together, or the upper end of the spread if that is larger."""
        return max(sum(value for value, _ in self.parts), *(self.ends or (0.0,)))


@final
@dataclass(frozen=True)
class BarChart(Picture):
    """Bars in rows, each with its name and its numbers."""

    title: str  # of the chart
    x_title: str  # of the axis, with its unit
    bars: Sequence[Bar]  # from top to bottom
    x_log: bool = False  # whether the axis is logarithmic; the bars then start at its left end
    limit: tuple[float, str] | None = None  # a reference for all bars: its value and its label
    keys: Sequence[tuple[str, str]] = ()  # names of the parts and their colours, above the bars

    def draw(self, width: float) -> tuple[float, Markup]:
        top, parts = 0.0, list[Markup]()
        if self.keys:
            top, shown = draw_key([(name, colour, "bar") for name, colour in self.keys], width)
            parts.append(shown)
        names = max((text_width(bar.name, 14 if bar.bold else 12.5) for bar in self.bars), default=0.0) + 12
        beside = names < 0.36 * width
        left = names if beside else 0.0
        row = 27.0 if beside else 40.0
        wide = width - left
        x = self._scale(wide)
        if self.limit is not None:
            top += 16
        bottom = top + row * len(self.bars) + 4
        for k, bar in enumerate(self.bars):
            parts += self._bar(bar, x, left, top + row * k, wide, beside)
        if self.limit is not None:
            at = left + wide * x.at(self.limit[0])
            for k, bar in enumerate(self.bars):
                after = at - left - wide * max(0.0, x.at(bar.whole))
                if not 0 < after < text_width(bar.text) + 14:  # not through the bar's numbers
                    parts.append(draw_path(f"M{decimal(at)},{decimal(top + row * (k + 1) - 23)}v19", "ink", 1.4))
        parts += [self._text(bar, x, left, top + row * (k + 1) - 9, wide) for k, bar in enumerate(self.bars)]
        longest = max([bar.whole for bar in self.bars] + ([self.limit[0]] if self.limit else []), default=0.0)
        parts += x_axis(x, left, bottom, wide, width, longest if self.x_log else 1.15 * longest)
        below, shown = draw_paragraph(self.x_title, left, bottom + 35, wide)
        parts.append(shown)
        if self.limit is not None:
            text = self.limit[1]
            at = left + wide * x.at(self.limit[0])
            inside = min(max(at, left + text_width(text) / 2), width - text_width(text) / 2)
            parts.append(draw_text(text, inside, top - 4, anchor="middle"))
        return bottom + 26 + below, join(parts)

    def _scale(self, wide: float) -> Scale:
        """Return an axis with room for every bar and the text after it."""
        values = [bar.whole for bar in self.bars]
        if self.x_log:
            fitted = fit([v for bar in self.bars for v in (bar.whole, *(bar.ends or ()))], log=True)
            room = max((text_width(bar.text) for bar in self.bars), default=0.0) + 14
            decades = math.log10(fitted.high / fitted.low)
            high = min(308.0, math.log10(fitted.low) + decades * wide / (wide - room))
            return Scale(fitted.low, 10**high, log=True)
        rooms = [max(0.3 * wide, wide - text_width(bar.text, 13.5 if bar.bold else 12) - 12) for bar in self.bars]
        high = max([value * wide / room for value, room in zip(values, rooms)], default=0.0)
        if self.limit is not None:
            high = max(high, self.limit[0] * 1.02)
        return Scale(0.0, high or 1.0)

    def _bar(self, bar: Bar, x: Scale, left: float, top: float, wide: float, beside: bool) -> list[Markup]:
        parts: list[Markup] = []
        if beside:
            parts.append(draw_text(bar.name, left - 9, top + 18, anchor="end", bold=bar.bold, size=12.5))
            at = top + 5
        else:
            parts.append(draw_text(shorten(bar.name, wide), 0, top + 14, bold=bar.bold, size=12.5))
            at = top + 19
        start = 0.0
        for value, colour in bar.parts:
            x0, x1 = (0.0 if self.x_log else wide * x.at(start)), wide * max(0.0, x.at(start + value))
            # On a logarithmic axis the length of a bar means nothing: a dot on a thin line shows the value.
            y, tall = (at + 7.5, 2.0) if self.x_log else (at, 17.0)
            shape = {"x": left + x0, "y": y, "width": max(0.0, x1 - x0), "height": tall}
            parts.append(tag("rect", **shape, rx=1.0, data_name=bar.name, **paint(fill=colour)))
            if self.x_log and x1:
                parts.append(tag("circle", cx=left + x1, cy=at + 8.5, r=5, data_name=bar.name, **paint(fill=colour)))
            start += value
        end = left + wide * max(0.0, x.at(bar.whole))
        if bar.ends is not None:
            first = left + wide * max(0.0, x.at(bar.ends[0]))
            d = f"M{decimal(first)},{decimal(at + 8.5)}H{decimal(end)}M{decimal(first)},{decimal(at + 5)}v7"
            parts.append(draw_path(f"{d}M{decimal(end)},{decimal(at + 5)}v7", "ink"))
        return parts

    def _text(self, bar: Bar, x: Scale, left: float, at: float, wide: float) -> Markup:
        """Draw the numbers after a bar, on top of everything else."""
        end = left + wide * max(0.0, x.at(bar.whole))
        return draw_text(bar.text, end + 6, at, bold=bar.bold, size=12, halo=True)

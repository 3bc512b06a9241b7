"""The interactive charts of a report, as figures in plotly's own JSON: a dictionary of traces and a layout.

They are written as plain dictionaries, which plotly's script on the page reads as they are; building them as
objects of plotly's Python package takes seconds for a page of this size.
"""

import json
import math
from typing import Any, TypeAlias

import numpy as np

from gradstep.lab.palette import DEPTH, GRID, INK, QUIET, REST, colours
from gradstep.lab.plotdata import LossPlot, loss_plot, panels
from gradstep.lab.results import Results
from gradstep.lab.standings import Standing, path, standings
from gradstep.lab.task import Task
from gradstep.lab.tasks import TASKS
from gradstep.lab.tasks.surface import Surface, relief
from gradstep.lab.words import number, percent, seconds, size

Part: TypeAlias = dict[str, Any]
"""A piece of plotly's JSON."""

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
PALE = [[0.0, "#8FA6BA"], [0.4, "#C5D2DD"], [0.75, "#EEF2F5"], [1.0, "#FFFFFF"]]
LETTER = 8.2
"""Width of a letter of a name, in pixels, generously."""
CONFIG = {"responsive": True, "displayModeBar": False}


def charts(results: Results) -> dict[str, str]:
    """The charts of a race as HTML fragments that need plotly's script on the page, by title, in order."""
    task = TASKS[results.header.task]
    if isinstance(task, Surface):
        figures = {"The paths": _paths(results, task), "Height over steps": _losses(results, over_time=False)}
    else:
        figures = {
            "Loss over steps": _losses(results, over_time=False),
            "Loss over time": _losses(results, over_time=True),
            "Where the time of a step goes": _times(results),
            "Memory the optimizer keeps": _memory(results),
        }
    return {title: _fragment(figure, task, title) for title, figure in figures.items()}


def _fragment(figure: Part, task: Task, title: str) -> str:
    """A place on the page and the call that draws the figure into it."""
    place = f"{task.name}-{title.lower().replace(' ', '-')}"
    # "</" would end the script element early.
    drawn = ", ".join(
        json.dumps(part, separators=(",", ":"), allow_nan=False).replace("</", "<\\/")
        for part in (place, figure["data"], figure["layout"], CONFIG)
    )
    return (
        f'<div id="{place}" style="height:{figure["layout"]["height"]}px"></div>'
        f"<script>Plotly.newPlot({drawn})</script>"
    )


def _losses(results: Results, over_time: bool) -> Part:
    plot = loss_plot(results, over_time)
    edge = plot.x_end * 1.03
    x_text = "%{x:.2f} s" if over_time else "step %{x:,}"
    data: list[Part] = []
    names: list[Part] = []
    for line in plot.lines:
        common = {"type": "scatter", "mode": "lines", "meta": line.label}
        if plot.has_band:
            data.append(
                common
                | {"x": line.x + line.x[::-1], "y": line.high + line.low[::-1], "line": {"width": 0}}
                | {"fill": "toself", "fillcolor": line.colour, "opacity": 0.12, "hoverinfo": "skip"}
            )
        stroke = {"color": line.colour, "width": 2.2, "dash": "6px,4px" if line.dashed else "solid"}
        hover = f"<b>{line.label}</b>  {x_text}  %{{y:.4g}}<extra></extra>"
        data.append(common | {"x": line.x, "y": line.y, "line": stroke, "hovertemplate": hover})
        if line.x:
            end = plot.window.clip(line.y[-1])
            data.append(
                common
                | {"x": [line.x[-1], plot.x_end, edge], "y": [end, end, line.name_at], "hoverinfo": "skip"}
                | {"line": {"color": line.colour, "width": 1, "dash": "2px,3px"}, "cliponaxis": False}
            )
        names.append(
            {"x": edge, "y": _on_axis(plot, line.name_at), "text": line.label, "showarrow": False}
            | {"xanchor": "left", "yanchor": "middle", "font": {"color": line.colour, "size": 12}}
        )
    right = LETTER * max((len(line.label) for line in plot.lines), default=10) + 12
    layout = _layout(430, left=64, right=right) | {"annotations": names}
    layout["xaxis"] |= {"title": {"text": plot.x_title, "standoff": 10}, "range": [0, edge]}
    layout["yaxis"] |= {
        "title": {"text": plot.y_title, "standoff": 8},
        "type": "log" if plot.window.log else "linear",
        "range": [_on_axis(plot, plot.window.low), _on_axis(plot, plot.window.high)],
        "exponentformat": "power",
    }
    if plot.window.log:
        decades = math.log10(plot.window.high / plot.window.low)
        layout["yaxis"] |= {"dtick": "D2" if decades < 2.5 else max(1, round(decades / 6))}
    return {"data": data, "layout": layout}


def _on_axis(plot: LossPlot, value: float) -> float:
    """A value as plotly wants it in a range or an annotation: its logarithm on a logarithmic axis."""
    return math.log10(value) if plot.window.log else value


def _times(results: Results) -> Part:
    table = [one for one in standings(results) if one.step is not None and one.optimizer is not None]
    table.sort(key=lambda one: -(one.step or 0.0))
    chosen = colours(results.header.contenders)
    names = [one.entry.label for one in table]
    whole = [1e3 * (one.step or 0.0) for one in table]
    part = [1e3 * (one.optimizer or 0.0) for one in table]
    optimizer = _bar(names, part) | {
        "marker": {"color": [chosen[name] for name in names]},
        "hovertemplate": "<b>%{y}</b>  optimizer %{x:.3g} ms<extra></extra>",
    }
    rest = _bar(names, [w - p for w, p in zip(whole, part)]) | {
        "marker": {"color": REST},
        "text": [f"{seconds(one.optimizer)}, {percent(one.share)}" for one in table],
        "hovertemplate": "<b>%{y}</b>  forward and backward %{x:.3g} ms<extra></extra>",
    }
    title = "ms a step, median: optimizer in colour, the rest in grey"
    return {"data": [optimizer, rest], "layout": _bar_layout(table, title, longest=max(whole, default=1.0))}


def _memory(results: Results) -> Part:
    table = sorted(standings(results), key=lambda one: -one.state_bytes)
    chosen = colours(results.header.contenders)
    each = [one.bytes_per_parameter for one in table]
    bars = _bar([one.entry.label for one in table], each) | {
        "marker": {"color": [chosen[one.entry.label] for one in table]},
        "text": [f"{one.bytes_per_parameter:.2f} B, {size(one.state_bytes)} in all" for one in table],
        "hoverinfo": "skip",
    }
    title = "bytes of state for each parameter"
    return {"data": [bars], "layout": _bar_layout(table, title, longest=max(each, default=0.0) or 1.0)}


def _paths(results: Results, task: Surface) -> Part:
    """The surface once for each contender, with that contender's path, best first."""
    table = standings(results)
    chosen = colours(results.header.contenders)
    rows, columns = panels(len(table))
    height = 28 + 252 * rows
    layout = _layout(height, left=34, right=10) | {"hovermode": "closest"}
    layout["margin"] |= {"t": 4, "b": 24}
    layout["annotations"] = []
    del layout["xaxis"], layout["yaxis"]
    grid = relief(task, points=61)
    contour = {
        "type": "contour",
        "x": grid.x.round(4).tolist(),
        "y": grid.y.round(4).tolist(),
        "z": np.log10(np.maximum(grid.z, grid.z.max() * DEPTH)).round(3).tolist(),
        "colorscale": PALE,
        "showscale": False,
        "ncontours": 16,
        "line": {"width": 0.5, "color": "white"},
        "hoverinfo": "skip",
    }
    data: list[Part] = []
    for index, one in enumerate(table):
        axes = {"xaxis": f"x{index + 1}", "yaxis": f"y{index + 1}"}
        colour = chosen[one.entry.label]
        places = path(results, one.entry.label)
        x, y = [place[0] for place in places], [place[1] for place in places]
        hover = "step %{text}: (%{x:.4g}, %{y:.4g})<extra></extra>"
        data += [
            contour | axes,
            axes
            | {
                "type": "scatter",
                "mode": "lines+markers",
                "x": x,
                "y": y,
                "line": {"color": colour, "width": 1.6},
            }
            | {"marker": {"size": 3, "color": colour}, "text": list(range(len(x))), "hovertemplate": hover},
            axes | _mark(x[:1], y[:1], "circle", 9, "white", INK),
            axes | _mark(x[-1:], y[-1:], "circle", 9, colour, "white"),
            axes | _mark([task.minimum[0]], [task.minimum[1]], "cross-thin", 10, INK, INK),
        ]
        left = (index % columns + 0.05) / columns
        bottom = 1 - (index // columns + 1 - 0.04) / rows
        width, tall = 0.91 / columns, 1 / rows - 54 / (height - 28)
        layout[f"xaxis{index + 1}"] = _axis() | {
            "domain": [left, left + width],
            "anchor": f"y{index + 1}",
            "range": list(task.view[0]),
            "showgrid": False,
        }
        layout[f"yaxis{index + 1}"] = _axis() | {
            "domain": [bottom, bottom + tall],
            "anchor": f"x{index + 1}",
            "range": list(task.view[1]),
            "showgrid": False,
        }
        outcome = "diverged" if one.diverged else number(one.loss)
        for at, anchor, text, ink in (
            (left, "left", f"<b>{one.entry.label}</b>", colour),
            (left + width, "right", outcome, INK),
        ):
            layout["annotations"].append(
                {
                    "xref": "paper",
                    "yref": "paper",
                    "x": at,
                    "y": bottom + tall,
                    "text": text,
                    "showarrow": False,
                }
                | {"xanchor": anchor, "yanchor": "bottom", "font": {"size": 12.5, "color": ink}}
            )
    return {"data": data, "layout": layout}


def _mark(x: list[float], y: list[float], symbol: str, width: int, fill: str, border: str) -> Part:
    marker = {"symbol": symbol, "size": width, "color": fill, "line": {"color": border, "width": 1.5}}
    return {"type": "scatter", "mode": "markers", "x": x, "y": y, "marker": marker, "hoverinfo": "skip"}


def _bar(names: list[str], lengths: list[float]) -> Part:
    return {
        "type": "bar",
        "orientation": "h",
        "y": names,
        "x": lengths,
        "textposition": "outside",
        "cliponaxis": False,
        "textfont": {"color": INK},
    }


def _bar_layout(table: list[Standing], title: str, longest: float) -> Part:
    left = LETTER * max((len(one.entry.label) for one in table), default=10) + 18
    layout = _layout(96 + 30 * len(table), left=left, right=16) | {"barmode": "stack", "bargap": 0.34}
    layout["xaxis"] |= {"title": {"text": title, "standoff": 10}, "range": [0, 1.62 * longest]}
    layout["yaxis"] |= {"showgrid": False, "tickfont": {"color": INK, "size": 12.5}, "ticks": "outside"}
    layout["yaxis"] |= {"ticklen": 6, "tickcolor": "white"}
    return layout


def _layout(height: int, left: float, right: float) -> Part:
    return {
        "height": height,
        "margin": {"l": left, "r": right, "t": 12, "b": 52},
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "font": {"family": FONT, "color": QUIET, "size": 12},
        "showlegend": False,
        "hoverlabel": {"bgcolor": "white", "font": {"color": INK}},
        "xaxis": _axis() | {"showline": True},
        "yaxis": _axis(),
    }


def _axis() -> Part:
    return {"gridcolor": GRID, "zeroline": False, "linecolor": GRID}

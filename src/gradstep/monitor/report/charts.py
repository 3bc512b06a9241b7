"""The charts of a run, as plotly's own JSON: dictionaries of traces and a layout, drawn by its script on the page."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from html import escape
from typing import Any, TypeAlias

from gradstep.monitor.readings import ALARMING_GRADIENT, HEALTHY_GRADIENT, METRICS, USUAL_RATIO, Metric
from gradstep.monitor.record import Run, Update
from gradstep.monitor.thin import thinned

Part: TypeAlias = dict[str, Any]
"""A piece of plotly's JSON."""

POINTS = 1_600
"""Points of a line, about: as many as a wide screen can show."""

INK, QUIET, GRID = "#1F2933", "#7B8794", "rgba(128,128,128,0.22)"
"""Seen on white and on black alike: the page follows the reader's colour scheme, and the background is its own."""
GOOD, BAD = "#009E73", "#C0392B"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#B5579A", "#8A8A8A")
"""Of the groups: the palette of Okabe and Ito, made to stay apart for colour-blind readers."""
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
CONFIG = {"responsive": True, "displayModeBar": False}
ALWAYS = {"Loss", "Learning rate", "Gradient norm, before clipping"}
"""Charts that are drawn even if they show a constant."""
LABELS = 5
"""Powers of ten that are labelled on an axis, at most."""
HOVER = {"clip": "%{y:.3p}", "unmoved_share": "%{y:.3p}", "seconds": "%{y:.4g} ms"}


def charts(run: Run) -> dict[str, str]:
    """The charts as HTML fragments that need plotly's script on the page, by title; without the empty ones."""
    metrics = {metric.name: metric for metric in METRICS}
    figures = {
        "Loss": _figure(run, metrics["loss"]),
        "Learning rate": _figure(run, metrics["lr"]),
        metrics["grad_norm"].title: _gradient(run, metrics["grad_norm"]),
        "Update norm over weight norm": _ratio(run, metrics["update_ratio"]),
        "Weight norm": _figure(run, metrics["weight_norm"]),
        "Range of √v": _range(run, metrics["root_min"], metrics["root_max"]),
        "Share of elements unmoved by rounding": _figure(run, metrics["unmoved_share"], top=0.01),
        "Clip factor": _figure(run, metrics["clip"], top=1.0),
        "Time of optimizer.step()": _figure(run, metrics["seconds"], unit=1e3, top=0.0),
    }
    shown = {title: figure for title, figure in figures.items() if title in ALWAYS or not _constant(figure)}
    return {title: _fragment(f"chart-{i}", fig) for i, (title, fig) in enumerate(shown.items()) if fig["data"]}


def _constant(figure: Part) -> bool:
    """Whether a chart would show nothing but level lines."""
    return all(len({y for y in trace["y"] if y is not None}) < 2 for trace in figure["data"])


def _figure(run: Run, metric: Metric, *, unit: float = 1.0, top: float | None = None) -> Part:
    """A line for all groups together, and one for each of them if there are several.

    Args:
        run: of which.
        metric: which number.
        unit: what values are multiplied by.
        top: the axis begins at 0 and reaches at least up to this; None lets it fit.
    """
    hover = HOVER.get(metric.name, "%{y:.5g}")
    data: list[Part] = []
    of_group = metric.of_group
    several = len(run.header.groups) > 1 and not (metric.name == "lr" and _one_rate(run))
    if several and of_group is not None:
        for index, group in enumerate(run.header.groups):
            colour = COLOURS[(index + 1) % len(COLOURS)]
            data += _line(run, _of_group(of_group, index), escape(group.name), colour, hover, unit, width=1.2)
    if not (several and metric.name == "lr"):
        data += _line(
            run, metric.value, "all" if several and of_group is not None else "", COLOURS[0], hover, unit, width=1.8
        )
    if metric.name == "loss":
        data += _not_finite(run)
    layout = _layout(logarithmic=metric.log, legend=len(data) > 1)
    layout["yaxis"] |= {"exponentformat": "power"}
    if metric.name in {"clip", "unmoved_share"}:
        layout["yaxis"] |= {"tickformat": ".3~p"}
    if metric.name == "seconds":
        layout["yaxis"] |= {"ticksuffix": " ms"}
    if top is None and data:
        layout["yaxis"] |= _fit([y for trace in data for y in trace["y"] if y is not None], logarithmic=metric.log)
    if top is not None:
        highest = max([top, *_most(metric, data)])
        layout["yaxis"] |= {"range": [0, 1.08 * highest or 1.0]}
    return {"data": data, "layout": layout}


def _gradient(run: Run, metric: Metric) -> Part:
    figure = _figure(run, metric)
    low, high = HEALTHY_GRADIENT
    _reach(figure, [low, ALARMING_GRADIENT])
    bottom = 10 ** (figure["layout"]["yaxis"]["range"][0] + 0.1)
    skips = _marks([update.update for update in run.updates if update.skipped][:POINTS], bottom, "skipped")
    figure["data"] += skips
    figure["layout"]["showlegend"] |= bool(skips)
    figure["layout"]["shapes"] = [_band(low, high, GOOD), _level(ALARMING_GRADIENT, BAD)]
    figure["layout"]["annotations"] = [
        _note(high, f"healthy: {low:g} to {high:g}", GOOD),
        _note(ALARMING_GRADIENT, f"alarming: over {ALARMING_GRADIENT:g}", BAD),
    ]
    return figure


def _ratio(run: Run, metric: Metric) -> Part:
    figure = _figure(run, metric)
    figure["layout"]["shapes"] = [_level(USUAL_RATIO, GOOD)]
    figure["layout"]["annotations"] = [_note(USUAL_RATIO, f"usual: about {USUAL_RATIO:g}", GOOD)]
    _reach(figure, [USUAL_RATIO])
    return figure


def _range(run: Run, low: Metric, high: Metric) -> Part:
    lines = [
        *_line(run, low.value, "smallest", COLOURS[5], "%{y:.4g}", 1.0, width=1.4),
        *_line(run, high.value, "largest", COLOURS[0], "%{y:.4g}", 1.0, width=1.8),
    ]
    layout = _layout(logarithmic=True, legend=True)
    layout["yaxis"] |= {"exponentformat": "power"}
    return {"data": lines, "layout": layout}


def _most(metric: Metric, data: Sequence[Part]) -> list[float]:
    """What an axis has to reach: every value, but of times only 98 in 100, since the first step may compile."""
    values = sorted(y for trace in data for y in trace["y"] if y is not None)
    return values[: math.ceil(0.98 * len(values))] if metric.name == "seconds" else values


def _one_rate(run: Run) -> bool:
    return all(len({group.lr for group in update.groups}) == 1 for update in run.made)


def _of_group(value: Callable[[Any], float | None], index: int) -> Callable[[Update], float | None]:
    return lambda update: value(update.groups[index]) if index < len(update.groups) else None


def _line(
    run: Run,
    value: Callable[[Update], float | None],
    name: str,
    colour: str,
    hover: str,
    unit: float,
    width: float,
) -> list[Part]:
    made = run.made
    values = [value(update) for update in made]
    if all(one is None for one in values):
        return []
    kept = thinned(values, POINTS)
    return [
        {
            "type": "scatter",
            "mode": "lines" if len(kept) > 1 else "markers",
            "name": name,
            "x": [made[i].update for i in kept],
            "y": [_finite(values[i], unit) for i in kept],
            "line": {"color": colour, "width": width},
            "hovertemplate": f"{f'{name}: ' if name else ''}{hover}<extra></extra>",
        }
    ]


def _finite(value: float | None, unit: float) -> float | None:
    """JSON has no number that is not finite: there the line has a gap."""
    return unit * value if value is not None and math.isfinite(value) else None


def _not_finite(run: Run) -> list[Part]:
    made = run.made
    odd = [i for i, update in enumerate(made) if update.loss is not None and not math.isfinite(update.loss)]
    finite = [update.loss for update in made if update.loss is not None and math.isfinite(update.loss)]
    height = max(finite, default=1.0)
    return _marks([made[i].update for i in odd[:POINTS]], height, "the loss is not finite")


def _marks(places: Sequence[int], height: float, words: str) -> list[Part]:
    if not places:
        return []
    marker = {"symbol": "x", "size": 7, "color": BAD}
    hover = f"update %{{x}}: {words}<extra></extra>"
    trace = {"type": "scatter", "mode": "markers", "name": words, "marker": marker, "hovertemplate": hover}
    return [trace | {"x": list(places), "y": [height] * len(places)}]


def _band(low: float, high: float, colour: str) -> Part:
    place = {"xref": "paper", "x0": 0, "x1": 1, "y0": low, "y1": high, "layer": "below"}
    return {"type": "rect", "fillcolor": colour, "opacity": 0.07, "line": {"width": 0}} | place


def _level(height: float, colour: str) -> Part:
    place = {"xref": "paper", "x0": 0, "x1": 1, "y0": height, "y1": height, "layer": "below"}
    return {"type": "line", "line": {"color": colour, "width": 1, "dash": "5px,4px"}} | place


def _note(height: float, words: str, colour: str) -> Part:
    font = {"color": colour, "size": 11}
    place = {"xref": "paper", "x": 1, "xanchor": "right", "y": math.log10(height), "yanchor": "bottom"}
    return {"text": words, "showarrow": False, "font": font} | place


def _reach(figure: Part, levels: Sequence[float]) -> None:
    """Let a logarithmic axis reach these levels as well, with few labels."""
    axis = figure["layout"]["yaxis"]
    bottom, top = axis.get("range", (math.inf, -math.inf))
    bottom, top = min(bottom, math.log10(min(levels)) - 0.25), max(top, math.log10(max(levels)) + 0.35)
    axis |= {"range": [bottom, top], "dtick": max(1, math.ceil((top - bottom) / LABELS))}


def _fit(values: Sequence[float], *, logarithmic: bool) -> Part:
    """A range that holds the lines, but not what lies far outside nearly all of their values: one spike hides nothing.

    A constant stands where it is, in the middle between 0 and twice itself.
    """
    known = sorted(math.log10(y) if logarithmic else y for y in values if y > 0 or not logarithmic)
    if not known:
        return {}
    low, high = known[0], known[-1]
    near, far = known[int(0.02 * (len(known) - 1))], known[math.ceil(0.98 * (len(known) - 1))]
    if far > near:
        low, high = max(low, near - 2 * (far - near)), min(high, far + 2 * (far - near))
    if logarithmic:
        return {"range": [low - 0.2, high + 0.2], "dtick": max(1, math.ceil((high - low) / LABELS))}
    if low == high:
        return {"range": sorted([0.0, 2 * low]) if low else [-1.0, 1.0]}
    return {"range": [low - 0.06 * (high - low), high + 0.06 * (high - low)], "nticks": LABELS}


def _layout(*, logarithmic: bool, legend: bool) -> Part:
    axis = {"gridcolor": GRID, "zeroline": False, "linecolor": GRID}
    return {
        "height": 300,
        "margin": {"l": 56, "r": 14, "t": 26 if legend else 10, "b": 40},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": FONT, "color": QUIET, "size": 12},
        "showlegend": legend,
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "font": {"size": 11}},
        "hovermode": "x unified",
        "hoverlabel": {"bgcolor": "white", "font": {"color": INK}},
        "xaxis": axis | {"showline": True, "title": {"text": "update", "standoff": 4}, "hoverformat": ",d"},
        "yaxis": axis | {"type": "log" if logarithmic else "linear"},
    }


def _fragment(place: str, figure: Part) -> str:
    """A place on the page and the call that draws the figure into it."""
    # No "<" in a script element: "</script>" would end it, "<!--<script>" would keep it from ending.
    drawn = ", ".join(
        json.dumps(part, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
        for part in (place, figure["data"], figure["layout"], CONFIG)
    )
    return (
        f'<div id="{place}" class="chart" style="height:{figure["layout"]["height"]}px"></div>'
        f"<script>Plotly.newPlot({drawn})</script>"
    )

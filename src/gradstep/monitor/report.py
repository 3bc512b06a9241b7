"""The report of a run: one HTML page with the doctor's findings, the latest numbers, charts and tables."""

import math
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from gradstep.monitor.doctor import diagnose
from gradstep.monitor.record import (
    ALARMING_GRADIENT,
    HEALTHY_GRADIENT,
    METRICS,
    USUAL_RATIO,
    Header,
    Metric,
    ParameterInfo,
    PerParameter,
    Run,
    Update,
    reading,
    share,
)
from gradstep.report import Level, Line, LineChart, cards, figures, page, section, table
from gradstep.report.markup import Markup, tag
from gradstep.report.scales import fit
from gradstep.report.words import UNKNOWN, short

MOST_ROWS = 500
MOST_MARKS = 200
GROUP_COLOURS = ("vermilion", "green", "pink", "amber", "sky", "wine", "olive", "indigo", "teal", "rose")
"""Colours of the groups; the line of all groups together is blue."""
HINT = "Sums are over the parameters that had a gradient. The bands and lines are rules of thumb, not limits."
HEALTH_LEVELS = {
    "grad_norm": (
        Level(HEALTHY_GRADIENT[0], "healthy: {:g} to {:g}".format(*HEALTHY_GRADIENT), "green", HEALTHY_GRADIENT[1]),
        Level(ALARMING_GRADIENT, f"alarming: over {ALARMING_GRADIENT:g}", "red"),
    ),
    "update_ratio": (Level(USUAL_RATIO, f"usual: about {USUAL_RATIO:g}", "green"),),
}
ALWAYS = ("loss", "lr", "grad_norm")
"""Metrics that are drawn even if they are constant."""


def write_run_report(run: Run, path: str | os.PathLike[str]) -> Path:
    """Write the report of a run as one self-contained HTML page.

    Args:
        run: a record, finished or not.
        path: the file, which ends in .html; folders are made, and an existing page is replaced.

    Raises:
        ValueError: another ending, such as that of a record; nothing was written.
    """
    header = run.header
    target = Path(path)
    if target.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"The page {str(target)!r} needs the ending .html, so that it replaces nothing else")
    target.parent.mkdir(parents=True, exist_ok=True)
    elements = sum(p.elements for p in header.parameters)
    text = page(
        f"{header.package}.{header.optimizer} on {elements:,} parameters",
        f"gradstep monitor · {header.started[:16].replace('T', ' ')}",
        _diagnosis_section(run),
        _cards(run),
        tag("p", HINT, class_="quiet"),
        figures(draw_run(run)),
        _groups_section(header),
        _parameters_section(run),
        _unregistered_section(header),
        _skipped_section(run),
    )
    target.write_text(text, encoding="utf-8")
    return target


def draw_run(run: Run) -> list[LineChart]:
    """Return the charts of a run; constant metrics other than loss, learning rate and gradient norm have none."""
    metrics = {metric.name: metric for metric in METRICS}
    skipped = [update for update in run.updates if update.skipped]
    odd = [update for update in run.made if update.loss is not None and not math.isfinite(update.loss)]
    shown = [
        _chart(run, metrics["loss"], "loss", marks=_marks(odd, "not finite")),
        _chart(run, metrics["lr"], "learning rate"),
        _chart(run, metrics["grad_norm"], "norm", marks=_marks(skipped, "skipped")),
        _chart(run, metrics["update_ratio"], "norm of the update over norm of the weights"),
        _chart(run, metrics["weight_norm"], "norm"),
        _range(run, metrics["root_min"], metrics["root_max"]),
        _chart(run, metrics["unmoved_share"], "share of the elements", unit=100.0, suffix="%", include=(0.0, 1.0)),
        _chart(run, metrics["clip"], "gradients multiplied by", include=(0.0, 1.0)),
        _chart(run, metrics["seconds"], "optimizer.step()", unit=1e3, suffix="ms", include=(0.0,)),
    ]
    always = {metrics[name].title for name in ALWAYS}
    return [
        chart
        for chart in shown
        if (chart.lines and chart.title in always)
        or any(len({y for y in line.y if y is not None}) > 1 for line in chart.lines)
    ]


def _chart(
    run: Run,
    metric: Metric,
    y_title: str,
    *,
    unit: float = 1.0,
    suffix: str = "",
    include: Sequence[float] = (),
    marks: Sequence[tuple[float, str]] = (),
) -> LineChart:
    """Draw a metric: a line for all groups together, and one for each group if there are several.

    Values are multiplied by ``unit``, whose name is ``suffix``. The axis includes the values ``include``, and if they
    are two, also the largest value of the lines. ``marks`` are updates to mark.
    """
    one_rate = metric.name == "lr" and all(len({group.lr for group in update.groups}) == 1 for update in run.made)
    several = len(run.header.groups) > 1 and metric.of_group is not None and not one_rate
    lines: list[Line] = []
    for index, group in enumerate(run.header.groups if several else ()):
        value = partial(_group_value, metric, index)
        lines += _line(run, value, group.name, GROUP_COLOURS[index % len(GROUP_COLOURS)], unit, 1.4)
    if not (several and metric.name == "lr"):
        lines += _line(run, metric.value, "all" if several else "", "blue", unit)
    levels = HEALTH_LEVELS.get(metric.name, ())
    values = [y for line in lines for y in line.y]
    if include[1:]:  # a bounded metric is shown completely
        include = [*include, max((y for y in values if y is not None and math.isfinite(y)), default=0.0)]
    reach = [*include, *(end for level in levels for end in (level.value, level.high) if end is not None)]
    return LineChart(
        metric.title,
        "update",
        f"{y_title}, {suffix}" if suffix else y_title,
        lines,
        y=fit(values, log=metric.log, include=reach),
        levels=levels,
        marks=marks,
    )


def _range(run: Run, low: Metric, high: Metric) -> LineChart:
    lines = [*_line(run, low.value, "smallest", "sky"), *_line(run, high.value, "largest", "blue")]
    # A logarithmic axis cannot show a smallest value that is always 0.
    lines = [line for line in lines if any(y is not None and y > 0 for y in line.y)]
    return LineChart("Range of √v", "update", "√v", lines, y_log=True)


def _group_value(metric: Metric, index: int, update: Update) -> float | None:
    return metric.of_group(update.groups[index]) if metric.of_group and index < len(update.groups) else None


def _line(
    run: Run,
    value: Callable[[Update], float | None],
    name: str,
    colour: str,
    unit: float = 1.0,
    thickness: float = 2.0,
) -> list[Line]:
    made = run.made
    values = [None if (one := value(update)) is None else unit * one for update in made]
    if all(one is None for one in values):
        return []
    return [Line(name, [update.update for update in made], values, colour, thickness=thickness)]


def _marks(updates: Sequence[Update], text: str) -> list[tuple[float, str]]:
    """Mark updates, the first of them with a text."""
    return [(float(u.update), "" if k else text) for k, u in enumerate(updates[:MOST_MARKS])]


def _diagnosis_section(run: Run) -> Markup:
    """Return the doctor's findings, the likeliest cause first."""
    diagnosis = diagnose(run)
    rows: list[Markup] = []
    for finding in diagnosis.findings:
        cause = finding.cause
        reason = f", likely a consequence of: {', '.join(finding.because_of)}" if finding.because_of else ""
        summary = tag("summary", tag("b", cause.title), " ", tag("span", cause.severity.value + reason))
        facts = tag("ul", *(tag("li", str(fact)) for fact in finding.evidence))
        words = (tag("div", cause.reading, class_="quiet"), tag("div", cause.remedy))
        rows.append(tag("li", tag("details", summary, facts, *words, open=None if rows else "")))
    kind = diagnosis.findings[0].cause.severity.value if diagnosis.findings else "good"
    headline = tag("b", f"Doctor: {diagnosis.headline}")
    return tag("div", headline, tag("ol", *rows) if rows else "", class_=f"verdict {kind}")


def _cards(run: Run) -> Markup:
    made = run.made
    planned = run.header.planned_updates
    count = f"{made[-1].update + 1:,}" if made else "0"
    entries = [(count, "updates" if planned is None else f"of {planned:,} updates", "")]
    for metric in METRICS:
        values = [value for update in made if (value := metric.value(update)) is not None]
        if values and metric.name not in {"root_min", "root_max", "clip"}:
            words, alarm = reading(metric.name, values[-1])
            entries.append((metric.text(values[-1]), f"{metric.title}. {words}" if words else metric.title, alarm))
    return cards(entries)


def _groups_section(header: Header) -> Markup:
    keys = list(dict.fromkeys(key for group in header.groups for key in group.settings))
    rows = []
    for index, group in enumerate(header.groups):
        parameters = [p for p in header.parameters if p.group == index]
        size = f"{sum(p.elements for p in parameters):,}"
        rows.append([group.name, str(len(parameters)), size, *(_setting(group.settings.get(key)) for key in keys)])
    return section("Parameter groups, as the run began", table(["group", "tensors", "elements", *keys], rows))


def _setting(value: Any) -> str:
    return short(value) if isinstance(value, float) else UNKNOWN if value is None else str(value)


def _parameters_section(run: Run) -> Markup:
    last = next((update for update in reversed(run.made) if update.parameters is not None), None)
    if last is None or last.parameters is None:
        return Markup()
    head = ["parameter", "shape", "gradient norm", "weight norm", "update / weight", "√v", "unmoved"]
    note = tag("p", f"at update {last.update:,}, the largest gradient first", class_="quiet")
    return section("Parameters", note, table(head, _parameter_rows(run.header, last.parameters)))


def _parameter_rows(header: Header, columns: PerParameter) -> list[list[str]]:
    order = sorted(range(len(columns.index)), key=lambda row: -float(columns.grad_norm[row]))
    rows = []
    for row in order[:MOST_ROWS]:
        p, weight = header.parameters[columns.index[row]], float(columns.weight_norm[row])
        ratio = float(columns.update_norm[row]) / weight if weight else None
        low, high = float(columns.root_min[row]), float(columns.root_max[row])
        rows.append(
            [
                p.name,
                _shape(p),
                short(float(columns.grad_norm[row])),
                short(weight),
                short(ratio),
                f"{short(low)} to {short(high)}" if low == low else UNKNOWN,
                share(float(columns.unmoved[row]) / max(1, p.elements)),
            ]
        )
    return rows


def _shape(p: ParameterInfo) -> str:
    return " × ".join(map(str, p.shape)) or "scalar"


def _unregistered_section(header: Header) -> Markup:
    if not header.unregistered:
        return Markup()
    rows = [[p.name, _shape(p), p.module, "no" if p.requires_grad else "yes"] for p in header.unregistered]
    return section("Not in the optimizer", table(["parameter", "shape", "module", "frozen"], rows[:MOST_ROWS]))


def _skipped_section(run: Run) -> Markup:
    rows = [[f"{u.update:,}", u.skipped, u.culprit or UNKNOWN, short(u.loss_scale)] for u in run.updates if u.skipped]
    if not rows:
        return Markup()
    return section("Skipped updates", table(["update", "why", "parameter", "loss scale"], rows[-MOST_ROWS:]))

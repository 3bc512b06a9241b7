"""Puts a report together: cards with the latest numbers, the charts, and tables of groups and parameters."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from gradstep.monitor.doctor import diagnose
from gradstep.monitor.readings import METRICS, number, reading, share
from gradstep.monitor.record import Header, Parameter, PerParameter, Run
from gradstep.monitor.report.charts import charts
from gradstep.monitor.report.page import page

MOST_ROWS = 500
HINT = (
    "Drag over a chart to zoom into all of them; a double click zooms out. Sums are over the parameters that had a "
    "gradient. The bands and lines are rules of thumb, not limits."
)


def write_report(run: Run, path: str | os.PathLike[str]) -> Path:
    """Write the page of a run, with everything in it that it needs.

    Args:
        run: a record, finished or not.
        path: the file; folders are made, and a page that is there is replaced.

    Raises:
        ImportError: plotly is not installed.
    """
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise ImportError('the report needs plotly, which is not installed: pip install "gradstep[lab]"') from error
    header = run.header
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    figures = "".join(f"<figure><figcaption>{t}</figcaption>{c}</figure>" for t, c in charts(run).items())
    elements = sum(p.elements for p in header.parameters)
    text = page(
        title=f"{header.package}.{header.optimizer} on {elements:,} parameters",
        brand=f"gradstep monitor · {header.started[:16].replace('T', ' ')}",
        body=_verdict(run)
        + f'<div class="cards">{_cards(run)}</div><p class="hint">{HINT}</p><div class="charts">{figures}</div>'
        + _groups(header)
        + _parameters(run)
        + _missing(header)
        + _skipped(run),
        script=get_plotlyjs(),
    )
    target.write_text(text, encoding="utf-8")
    return target


def _verdict(run: Run) -> str:
    """What the doctor says, the likeliest cause first."""
    diagnosis = diagnose(run)
    rows: list[str] = []
    for finding in diagnosis.findings:
        cause = finding.cause
        of = f", likely a consequence of: {', '.join(finding.because_of)}" if finding.because_of else ""
        facts = "".join(f"<li>{escape(str(fact))}</li>" for fact in finding.evidence)
        rows.append(
            f"<li><details{'' if rows else ' open'}><summary><b>{escape(cause.title)}</b> "
            f"<span>{escape(cause.severity.value + of)}</span></summary>"
            f"<ul>{facts}</ul><span>{escape(cause.reading)}</span><br>{escape(cause.remedy)}</details></li>"
        )
    kind = diagnosis.findings[0].cause.severity.value if diagnosis.findings else "good"
    found = f"<ol>{''.join(rows)}</ol>" if rows else ""
    return f'<section class="verdict {kind}"><b>Doctor: {escape(diagnosis.headline)}</b>{found}</section>'


def _cards(run: Run) -> str:
    made = run.made
    planned = run.header.planned_updates
    done = f"{made[-1].update + 1:,}" if made else "0"
    cards = [_card("updates" if planned is None else f"of {planned:,} updates", done, "")]
    for metric in METRICS:
        values = [value for update in made if (value := metric.value(update)) is not None]
        if values and metric.name not in {"root_min", "root_max", "clip"}:
            words, alarm = reading(metric.name, values[-1])
            cards.append(_card(f"{metric.title}. {words}" if words else metric.title, metric.text(values[-1]), alarm))
    return "".join(cards)


def _card(label: str, value: str, alarm: str) -> str:
    return f'<div class="card {alarm}"><b>{escape(value)}</b><span>{escape(label)}</span></div>'


def _groups(header: Header) -> str:
    keys = list(dict.fromkeys(key for group in header.groups for key in group.settings))
    rows = []
    for index, group in enumerate(header.groups):
        inside = [p for p in header.parameters if p.group == index]
        size = f"{sum(p.elements for p in inside):,}"
        rows.append([group.name, str(len(inside)), size, *(_setting(group.settings.get(key)) for key in keys)])
    return "<h2>Parameter groups, as the run began</h2>" + _table(["group", "tensors", "elements", *keys], rows)


def _setting(value: object) -> str:
    return number(value) if isinstance(value, float) else "–" if value is None else str(value)


def _parameters(run: Run) -> str:
    last = next((update for update in reversed(run.made) if update.parameters is not None), None)
    if last is None or last.parameters is None:
        return ""
    head = ["parameter", "shape", "gradient norm", "weight norm", "update / weight", "√v", "unmoved"]
    note = f"at update {last.update:,}, the largest gradient first"
    rows = _parameter_rows(run.header, last.parameters)
    return f"<h2>Parameters</h2><p class=hint>{note}</p>" + _table(head, rows)


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
                number(float(columns.grad_norm[row])),
                number(weight),
                "–" if ratio is None else number(ratio),
                f"{number(low)} to {number(high)}" if low == low else "–",
                share(float(columns.unmoved[row]) / max(1, p.elements)),
            ]
        )
    return rows


def _shape(p: Parameter) -> str:
    return " × ".join(map(str, p.shape)) or "scalar"


def _missing(header: Header) -> str:
    if not header.unregistered:
        return ""
    rows = [[p.name, _shape(p), p.module, "no" if p.requires_grad else "yes"] for p in header.unregistered]
    return "<h2>Not in the optimizer</h2>" + _table(["parameter", "shape", "module", "frozen"], rows[:MOST_ROWS])


def _skipped(run: Run) -> str:
    rows = [
        [f"{u.update:,}", u.skipped, u.culprit or "–", "–" if u.loss_scale is None else number(u.loss_scale)]
        for u in run.updates
        if u.skipped
    ]
    if not rows:
        return ""
    return "<h2>Skipped updates</h2>" + _table(["update", "why", "parameter", "loss scale"], rows[-MOST_ROWS:])


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'

"""The curves of a learning-rate finder as a picture."""

from __future__ import annotations

from gradstep.report import Line, LineChart
from gradstep.report.scales import Scale
from gradstep.training.lr_found import LrFound
from gradstep.training.lr_suggest import RECOMMENDED

_COLOURS = {
    "steepest": "vermilion",
    "valley": "green",
    "a tenth of the minimum": "wine",
    "a tenth of the explosion": "ink",
}


def plot(found: LrFound) -> LineChart:
    """Every sweep, raw and smoothed, and below them each suggestion with its spread."""
    drawn = [sweep for sweep in found.sweeps if len(sweep.lrs)]
    lines = [Line("loss", s.lrs.tolist(), s.losses.tolist(), "pale", thickness=1.0) for s in drawn]
    lines += [Line("smoothed", s.lrs.tolist(), s.smoothed.tolist(), "blue") for s in drawn]
    low = min((float(sweep.losses.min()) for sweep in drawn), default=0.0)
    high = max((float(sweep.losses[: sweep.lowest + 1].max()) for sweep in drawn), default=1.0)
    height = high - low or 1.0
    for place, (name, suggestion) in enumerate(found.suggestions.items(), start=1):
        level = low - 0.06 * place * height  # below all curves
        label, colour = f"{name}: {suggestion}", _COLOURS[name]
        thick = 4.0 if name == RECOMMENDED and not found.refusal else 2.0
        lines.append(Line(label, [suggestion.low, suggestion.high], [level, level], colour, thickness=thick))
        lines.append(Line(label, [suggestion.lr], [level], colour, points=True))
    return LineChart(
        found.refusal or f"Learning rate {found.recommended}",
        "learning rate",
        "loss after the update",
        lines,
        x_log=True,
        y=Scale(low - 0.3 * height, high + 0.25 * height),  # an explosion goes out of the picture
        marks=[] if found.refusal else [(found.recommended.lr, "")],
        tall=330.0,
        beside=False,
    )

"""The curves of a learning-rate finder as a picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradstep.training.lr_found import LrFound
from gradstep.training.lr_suggest import RECOMMENDED

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_CURVE, _RAW, _BEST, _QUIET = "#0072B2", "#A9CCE3", "#D55E00", "#6B7785"
_MARKS = {"steepest": "o", "valley": "s", "a tenth of the minimum": "^", "a tenth of the explosion": "X"}


def plot(found: LrFound) -> Figure:
    """A figure of its own, without a window."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            'plot() draws with matplotlib, which is not installed: pip install "gradstep[lab]"', name=error.name
        ) from error

    figure = Figure(figsize=(7.5, 4.2), layout="constrained")
    draw(figure.add_subplot(), found)
    return figure


def draw(axes: Axes, found: LrFound) -> None:
    """Every sweep, raw and smoothed; each suggestion on the first curve, with its spread."""
    drawn = [sweep for sweep in found.sweeps if len(sweep.lrs)]
    for sweep in drawn:
        axes.plot(sweep.lrs, sweep.losses, color=_RAW, linewidth=0.7, zorder=1)
        axes.plot(sweep.lrs, sweep.smoothed, color=_CURVE, linewidth=1.5, zorder=2)
    axes.set_xscale("log")
    axes.set(xlabel="learning rate", ylabel="loss after the update")
    axes.spines[["top", "right"]].set_visible(False)
    if drawn:
        low = min(float(s.smoothed.min()) for s in drawn)
        high = max(float(s.smoothed[: s.lowest + 1].max()) for s in drawn)
        margin = 0.35 * (high - low) or 1.0
        axes.set_ylim(low - 0.6 * margin, high + margin)  # an explosion goes out of the picture
    reason = found.refusal
    axes.set_title(reason or f"learning rate {found.recommended}", loc="left", fontsize=9 if reason else 11, wrap=True)
    if not reason:
        best = found.recommended
        axes.axvspan(best.low, best.high, color=_BEST, alpha=0.15, linewidth=0)
        axes.axvline(best.lr, color=_BEST, linewidth=1)
    bottom = axes.get_ylim()[0]
    step = 0.05 * (axes.get_ylim()[1] - bottom)
    for place, (name, suggestion) in enumerate(found.suggestions.items(), start=1):
        colour = _BEST if name == RECOMMENDED else _QUIET
        height = bottom + place * step
        axes.plot([suggestion.low, suggestion.high], [height, height], color=colour, linewidth=1.5)
        axes.plot(suggestion.lr, height, _MARKS[name], color=colour, label=f"{name}: {suggestion}")
    if found.suggestions:
        axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(0.0, 0.62))

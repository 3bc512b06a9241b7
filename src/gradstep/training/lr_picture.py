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
    """Every sweep, raw and smoothed, and below them each suggestion with its spread."""
    drawn = [sweep for sweep in found.sweeps if len(sweep.lrs)]
    for sweep in drawn:
        axes.plot(sweep.lrs, sweep.losses, color=_RAW, linewidth=0.7, zorder=1)
        axes.plot(sweep.lrs, sweep.smoothed, color=_CURVE, linewidth=1.5, zorder=2)
    axes.set_xscale("log")
    axes.set(xlabel="learning rate", ylabel="loss after the update")
    axes.spines[["top", "right"]].set_visible(False)
    low = min((float(sweep.losses.min()) for sweep in drawn), default=0.0)
    high = max((float(sweep.losses[: sweep.lowest + 1].max()) for sweep in drawn), default=1.0)
    height = high - low or 1.0
    axes.set_ylim(low - 0.3 * height, high + 0.25 * height)  # an explosion goes out of the picture
    reason = found.refusal
    axes.set_title(reason or f"learning rate {found.recommended}", loc="left", fontsize=9 if reason else 11, wrap=True)
    if not reason:
        best = found.recommended
        axes.axvspan(best.low, best.high, color=_BEST, alpha=0.15, linewidth=0)
        axes.axvline(best.lr, color=_BEST, linewidth=1)
    for place, (name, suggestion) in enumerate(found.suggestions.items(), start=1):
        colour = _BEST if name == RECOMMENDED else _QUIET
        level = low - 0.06 * place * height  # below all curves
        axes.plot([suggestion.low, suggestion.high], [level, level], color=colour, linewidth=1.5)
        axes.plot(suggestion.lr, level, _MARKS[name], color=colour, label=f"{name}: {suggestion}")
    if found.suggestions:
        axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(0.0, 0.62))

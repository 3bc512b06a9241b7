"""Plans as a chart of stacked bars; needs the extra ``lab``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from gradstep.planner.comparison import Plans
from gradstep.planner.planning import Plan
from gradstep.planner.units import GB, GIB, size

FORMATS = (".png", ".svg", ".pdf")
COLOURS = {
    "weights": "#0072B2",
    "gradients": "#56B4E9",
    "state": "#D55E00",
    "extra": "#E69F00",
    "elsewhere": "#E4E8EC",
}
INK, QUIET, GRID = "#1F2933", "#6B7785", "#E4E8EC"
WIDTH, BAR, HEAD, FOOT = 10.0, 0.3, 0.95, 0.6
"""In inches."""


def check_chart(file: Path) -> None:
    """Refuse a file name that says no format.

    Raises:
        ValueError: naming the formats.
    """
    if file.suffix.lower() not in FORMATS:
        raise ValueError(f"the chart {file} needs an ending that says its format: {', '.join(FORMATS)}")


def save_chart(plans: Plans, shown: Sequence[Plan], file: Path) -> Path:
    """Draw one bar for each plan, with the budget as a line, and save it (PNG, SVG or PDF, by the file's name)."""
    first = plans.plans[0]
    unit, name = (GIB, "GiB") if first.binary else (GB, "GB")
    height = HEAD + BAR * len(shown) + FOOT
    figure = Figure(figsize=(WIDTH, height), facecolor="white")
    axes = figure.add_axes((0.33, FOOT / height, 0.48, BAR * len(shown) / height))
    starts = [0.0] * len(shown)
    for kind, colour in COLOURS.items():
        lengths = [_bytes(plan, kind) / unit for plan in shown]
        label = {"elsewhere": "state paged out"}.get(kind, kind)
        if any(lengths):
            axes.barh(range(len(shown)), lengths, left=starts, color=colour, label=label, height=0.72)
        starts = [start + length for start, length in zip(starts, lengths)]
    longest = max(*starts, plans.budget / unit)
    for index, plan in enumerate(shown):
        best = plan == plans.best
        axes.text(
            1.01, index, size(plan.device, binary=plan.binary) + ("  recommended" if best else ""),
            transform=axes.get_yaxis_transform(), va="center", fontsize=8.5, color=INK if plan.fits else QUIET,
            fontweight="bold" if best else "normal",
        )  # fmt: skip
    axes.text(1.01, -0.62, "on the device", transform=axes.get_yaxis_transform(), va="bottom", fontsize=8.5, color=INK)
    axes.axvline(plans.budget / unit, color=INK, linewidth=1.2, linestyle=(0, (4, 2)), zorder=3)
    axes.text(
        plans.budget / unit, -0.62, f"budget {size(plans.budget, binary=first.binary)}",
        ha="center", va="bottom", fontsize=8.5, color=INK,
    )  # fmt: skip
    axes.set_yticks(range(len(shown)), [_label(plan) for plan in shown])
    for tick, plan in zip(axes.get_yticklabels(), shown):
        tick.set_fontweight("bold" if plan == plans.best else "normal")
        tick.set_color(INK if plan.fits else QUIET)
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.set_xlim(0, longest * 1.02)
    axes.set_xlabel(name + (" on each GPU" if first.gpus > 1 else ""), color=QUIET, fontsize=9)
    axes.tick_params(axis="y", length=0, labelsize=8.5)
    axes.tick_params(axis="x", colors=QUIET, labelsize=8.5)
    axes.grid(axis="x", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for spine in axes.spines.values():
        spine.set_visible(False)
    title = f"{first.model}: {first.parameters:,} parameters with {first.optimizer}"
    figure.text(0.02, 1 - 0.14 / height, title, va="top", fontsize=13, fontweight="bold", color=INK)
    figure.legend(
        loc="upper left", bbox_to_anchor=(0.012, 1 - 0.40 / height), ncols=len(COLOURS), frameon=False, fontsize=9,
        handlelength=1.0, columnspacing=1.4,
    )  # fmt: skip
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=160)
    return file


def _bytes(plan: Plan, kind: str) -> int:
    if kind == "elsewhere":
        return plan.host + plan.disk
    return sum(row.nbytes for row in plan.rows if row.kind == kind and row.place == "device")


def _label(plan: Plan) -> str:
    choice = plan.choice
    weights = (choice.params or "as it is") + ("" if choice.params == "float32" else f" {choice.rounding}")
    words = [weights, f"{'8-bit' if choice.state == '8bit' else choice.state} state"]
    words += ["paged"] if choice.paged else []
    words += [f"{choice.sharded} sharded"] if choice.sharded != "none" else []
    return " · ".join(words)

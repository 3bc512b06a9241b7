"""Draws docs/images/state_precision.png and rounding.png: what can be stored, and what becomes of what cannot.

Run it from anywhere, without arguments.
"""

from pathlib import Path
from typing import get_args

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import gradstep
from gradstep.storage.codecs import Blocks
from gradstep.storage.policy import RoundingName

IMAGES = Path(__file__).parent / "images"
ORANGE, BLUE, GREY, INK = "#D55E00", "#0072B2", "#9AA5B1", "#1F2933"
STEPS = 1_000


def state() -> Figure:
    """Every code's value, and how far it is to the next, for a block whose largest value is 1."""
    figure = Figure(figsize=(9, 4.6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[1, 2.2])
    codes = np.arange(256, dtype=np.int32)
    for row, (signed, name, colour) in enumerate(
        ((False, "non-negative (second moment)", BLUE), (True, "signed (first moment)", ORANGE))
    ):
        values = np.unique(np.abs(Blocks(signed).join(codes, np.int32(127)).astype(np.float64)))
        values = values[(values > 0) & (values <= 1)]
        above.plot(values, np.full(len(values), -row), "|", color=colour, markersize=13)
        below.step(
            values[:-1],
            np.diff(values) / values[:-1] * 100,
            where="post",
            color=colour,
            linewidth=2.6 - 1.4 * row,
            label=name,
        )
        below.plot([values[0]] * 2, [0, 12.5], color=colour, linewidth=1, linestyle=":")
        below.annotate(
            "under it: this code or 0,\nat random" if signed else "under it:\nthis code",
            (values[0], 14),
            fontsize=8.5,
            color=colour,
            ha="center",
        )
    below.axhline(100 * 2.0**-7, color=GREY, label="bfloat16: at most 0.8%")
    above.set_yticks([0, -1], ["non-negative", "signed"])
    above.set_ylim(-1.6, 0.6)
    above.set_title("every code", loc="left", fontsize=10)
    below.set_title("to the next code, % of the value", loc="left", fontsize=10)
    below.set_xscale("log", base=2)
    below.set_xlabel("value, where the largest of its block of 256 is 1")
    below.set_ylim(0, 18)
    below.legend(frameon=False, fontsize=9, loc=(0.03, 0.13), ncols=3)
    for axes in (above, below):
        _quiet(axes)
    return figure


def parameters() -> Figure:
    """Left, the least update that rounding to nearest shows; right, a weight of 1 that is to fall by 0.001 a step."""
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    weights = np.logspace(-4, 1, 2_000)
    octave = np.floor(np.log2(weights))
    for name, places, smallest, colour in (
        ("bfloat16", 7, -133, ORANGE),
        ("float16", 10, -24, BLUE),
        ("float32", 23, -149, GREY),
    ):
        left.loglog(weights, 2.0 ** (np.maximum(octave - places, smallest) - 1), color=colour, label=name)
    left.axhline(1e-4, color=INK, linewidth=1, linestyle=":")
    left.annotate("Adam's update at lr 1e-4", (1.2e-4, 1.3e-4), fontsize=8.5)
    left.set_xlabel("weight")
    left.set_title("smaller updates are lost by rounding to nearest", loc="left", fontsize=10)
    left.legend(frameon=False, fontsize=9)
    for rounding, colour in zip(get_args(RoundingName), (GREY, ORANGE, BLUE, INK), strict=True):
        path = walked(rounding)
        if rounding == "stochastic":
            right.plot(path[:, 1:5], color=colour, linewidth=0.8, alpha=0.5)
        mean = path.mean(axis=1)
        label = "stochastic: 4 weights, and the mean of 256" if rounding == "stochastic" else rounding
        right.plot(
            mean, color=colour, label=label, linewidth=1.6, linestyle=(0, (1, 2)) if rounding == "master" else "-"
        )
    right.set_xlabel("steps of −0.001")
    right.set_title("a bfloat16 weight of 1", loc="left", fontsize=10)
    right.legend(frameon=False, fontsize=9)
    for axes in (left, right):
        _quiet(axes)
    return figure


def walked(name: RoundingName) -> np.ndarray:
    """(STEPS + 1, 256) weights by step."""
    p = torch.ones(256, 1, dtype=torch.bfloat16, requires_grad=True)
    p.grad = torch.ones_like(p)
    optimizer = gradstep.SGD([p], lr=1e-3, rounding=name, seed=0)
    path = [p.detach().float().flatten().clone()]
    for _ in range(STEPS):
        optimizer.step()
        path.append(p.detach().float().flatten().clone())
    return torch.stack(path).numpy()


def _quiet(axes: Axes) -> None:
    axes.grid(visible=True, color="#E4E8EC", linewidth=0.8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


if __name__ == "__main__":
    state().savefig(IMAGES / "state_precision.png", dpi=110)
    parameters().savefig(IMAGES / "rounding.png", dpi=110)

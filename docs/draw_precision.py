"""Draws docs/images/state_precision.svg and rounding.svg: what can be stored, and what becomes of what cannot.

Run it from anywhere, without arguments.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch

import gradstep
from gradstep.report import Grid, Level, Line, LineChart
from gradstep.report.scales import Scale
from gradstep.storage.codecs import Blocks

IMAGES = Path(__file__).parent / "images"
ORANGE, BLUE, GREY, INK = "vermilion", "blue", "grey", "ink"
STEPS = 1_000
ROUNDINGS = ("nearest", "stochastic", "kahan", "master")


def state() -> LineChart:
    """How far every code is from the next, for a block whose largest value is 1."""
    codes = np.arange(256, dtype=np.int32)
    distances, marks = [], []
    for row, (signed, name, colour) in enumerate(
        ((False, "non-negative (second moment)", BLUE), (True, "signed (first moment)", ORANGE))
    ):
        values = np.unique(np.abs(Blocks(signed).join(codes, np.int32(127)).astype(np.float64)))
        values = values[(values > 0) & (values <= 1)]
        # A step from each code to the next.
        x, y = np.repeat(values, 2)[1:-1], np.repeat(np.diff(values) / values[:-1] * 100, 2)
        distances.append(Line(name, x.tolist(), y.tolist(), colour, thickness=2.6 - 1.2 * row))
        marks.append((float(values[0]), "under it: this code or 0, at random" if signed else "under it: this code"))
    return LineChart(
        "From each code to the next",
        "value, where the largest of its block of 256 is 1",
        "% of the value",
        distances,
        x=Scale(2.0**-33, 1.0, log=True),
        y=Scale(0.0, 18.0),
        levels=[Level(100 * 2.0**-7, "bfloat16: at most 0.8%", GREY)],
        marks=marks,
        beside=False,
    )


def parameters() -> Grid:
    """Left, the least update that rounding to nearest shows; right, a weight of 1 that is to fall by 0.001 a step."""
    weights = np.logspace(-4, 1, 2_000)
    octave = np.floor(np.log2(weights))
    least = [
        Line(name, weights.tolist(), (2.0 ** (np.maximum(octave - places, smallest) - 1)).tolist(), colour)
        for name, places, smallest, colour in (
            ("bfloat16", 7, -133, ORANGE),
            ("float16", 10, -24, BLUE),
            ("float32", 23, -149, GREY),
        )
    ]
    left = LineChart(
        "Smaller updates are lost by rounding to nearest",
        "weight",
        "update",
        least,
        x_log=True,
        y_log=True,
        levels=[Level(1e-4, "Adam's update at lr 1e-4", INK)],
    )
    steps = range(STEPS + 1)
    walks = []
    for rounding, colour in zip(ROUNDINGS, (GREY, ORANGE, BLUE, INK), strict=True):
        path = walked(rounding)
        if rounding == "stochastic":
            walks += [Line("", steps, path[:, k].tolist(), colour, thickness=0.7) for k in range(1, 5)]
        label = "stochastic: 4 weights, and the mean of 256" if rounding == "stochastic" else rounding
        walks.append(Line(label, steps, path.mean(axis=1).tolist(), colour, dashed=rounding == "master"))
    right = LineChart("A bfloat16 weight of 1", "steps of −0.001", "weight", walks)
    return Grid("What rounding does to small updates", [left, right])


def walked(name: Any) -> np.ndarray:
    """(STEPS + 1, 256) weights by step."""
    p = torch.ones(256, 1, dtype=torch.bfloat16, requires_grad=True)
    p.grad = torch.ones_like(p)
    optimizer = gradstep.SGD([p], lr=1e-3, rounding=name, seed=0)
    path = [p.detach().float().flatten().clone()]
    for _ in range(STEPS):
        optimizer.step()
        path.append(p.detach().float().flatten().clone())
    return torch.stack(path).numpy()


if __name__ == "__main__":
    state().save(IMAGES / "state_precision.svg")
    parameters().save(IMAGES / "rounding.svg")

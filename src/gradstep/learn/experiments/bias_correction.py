"""Bias correction on and off."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gradstep.learn.experiments.experiment import COLOURS, INK, Experiment, Finding, tidy
from gradstep.learn.walker import Walker
from gradstep.rules import Adam

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LR, STEPS = 0.1, 1500
WRONG = "#882255"


def uncorrected(coefficients: dict[str, float]) -> dict[str, float]:
    """Adam's coefficients without both corrections."""
    return coefficients | {"step_size": LR, "unbias2": 1.0}


def run() -> Finding:
    """A constant gradient shows the length of the steps, a quadratic what becomes of them."""
    walkers = {"corrected": Walker(Adam(lr=LR), [0.0]), "not corrected": Walker(Adam(lr=LR), [0.0], change=uncorrected)}
    lengths = {name: _lengths(walker) for name, walker in walkers.items()}
    walkers = {"corrected": Walker(Adam(lr=LR), [1.0]), "not corrected": Walker(Adam(lr=LR), [1.0], change=uncorrected)}
    ways = {name: _way(walker) for name, walker in walkers.items()}
    wrong = lengths["not corrected"]
    lowest = {name: float(way.min()) for name, way in ways.items()}
    lines = (
        f"With the corrections every step along a constant gradient is {lengths['corrected'].max():.3g} lr long.",
        f"Without them the first is {wrong[0]:.3g} lr, the longest {wrong.max():.3g} lr (step {wrong.argmax() + 1}), "
        f"and after {STEPS:,} steps they are still {wrong[-1]:.3g} lr.",
        f"On p² from 1, the corrected run overshoots to {lowest['corrected']:.2f}, the other to "
        f"{lowest['not corrected']:.2f}.",
    )
    return Finding(lines, (10, 4), lambda figure: _draw(figure, lengths, ways))


def _lengths(walker: Walker) -> NDArray[Any]:
    """The length of each step along a gradient of 1, in units of lr."""
    places = [0.0]
    for _ in range(STEPS):
        walker.step(np.ones(1))
        places.append(float(walker.p[0]))
    return -np.diff(places) / LR


def _way(walker: Walker) -> NDArray[Any]:
    """The way down p²."""
    places = [walker.p[0]]
    for _ in range(200):
        walker.step(2 * walker.p)
        places.append(walker.p[0])
    return np.array(places)


def _draw(figure: Figure, lengths: dict[str, NDArray[Any]], ways: dict[str, NDArray[Any]]) -> None:
    left, right = figure.subplots(1, 2)
    for (name, length), colour in zip(lengths.items(), (COLOURS["Adam"], WRONG)):
        left.plot(range(1, STEPS + 1), length, color=colour, label=name)
        right.plot(ways[name], color=colour, label=name)
    left.set_xscale("log")
    left.set_ylim(bottom=0)
    right.axhline(0, color=INK, linewidth=0.6)
    tidy(left, "How long a step is, the gradient being constant", "step", "length in units of lr")
    tidy(right, "The way down p², from 1", "step", "p")
    for axes in (left, right):
        axes.legend(frameon=False, fontsize=9)


EXPERIMENT = Experiment(
    "bias-correction",
    "Bias correction on and off",
    "Adam's averages start at zero. Without correction, are its first steps too short or too long, and how "
    "many of them?",
    run,
)

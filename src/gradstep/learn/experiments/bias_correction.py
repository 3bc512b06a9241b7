"""Bias correction on and off."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradstep.learn.experiments.experiment import RULE_COLOURS, Conclusion, Experiment, SettingsChange, Walker
from gradstep.report import Grid, Line, LineChart
from gradstep.report.scales import Scale, fit
from gradstep.rules import Adam

_LR, _STEPS = 0.1, 1500
WRONG = "wine"


def uncorrected(coefficients: dict[str, float]) -> dict[str, float]:
    """Return Adam's coefficients without both corrections."""
    return coefficients | {"step_size": _LR, "unbias2": 1.0}


def compare_corrections() -> Conclusion:
    """Compare the length of steps on a constant gradient, and the path on a quadratic."""
    changes: dict[str, SettingsChange] = {"corrected": lambda coefficients: coefficients, "not corrected": uncorrected}
    lengths, ways = {}, {}
    for name, change in changes.items():
        lengths[name] = step_lengths(change)
        ways[name] = Walker(Adam(lr=_LR), [1.0], change=change).walk(lambda p: 2 * p, 200)[:, 0]
    wrong = lengths["not corrected"]
    lowest = {name: float(way.min()) for name, way in ways.items()}
    lines = (
        f"With the corrections every step along a constant gradient is {lengths['corrected'].max():.3g} lr long.",
        f"Without them the first is {wrong[0]:.3g} lr, the longest {wrong.max():.3g} lr (step {wrong.argmax() + 1}), "
        f"and after {_STEPS:,} steps they are still {wrong[-1]:.3g} lr.",
        f"On p² from 1, the corrected run overshoots to {lowest['corrected']:.2f}, the other to "
        f"{lowest['not corrected']:.2f}.",
    )
    return Conclusion(lines, _picture(lengths, ways))


def step_lengths(change: SettingsChange) -> NDArray[Any]:
    """Return the length of each step along a gradient of 1, in units of lr, of shape (_STEPS,)."""
    return -np.diff(Walker(Adam(lr=_LR), [0.0], change=change).walk(np.ones_like, _STEPS)[:, 0]) / _LR


def _picture(lengths: dict[str, NDArray[Any]], ways: dict[str, NDArray[Any]]) -> Grid:
    colours = {"corrected": RULE_COLOURS["Adam"], "not corrected": WRONG}
    steps = list(range(1, _STEPS + 1))
    longest = max(float(length.max()) for length in lengths.values())
    left = LineChart(
        "How long a step is, the gradient being constant",
        "step",
        "length in units of lr",
        [Line(name, steps, length.tolist(), colours[name]) for name, length in lengths.items()],
        x=Scale(1.0, _STEPS, log=True),
        y=fit([0.0, longest]),
    )
    right = LineChart(
        "The way down p², from 1",
        "step",
        "p",
        [Line(name, range(len(way)), way.tolist(), colours[name]) for name, way in ways.items()],
    )
    return Grid("Bias correction on and off", [left, right])


EXPERIMENT = Experiment(
    "bias-correction",
    "Bias correction on and off",
    "Adam's averages start at zero. Without correction, are its first steps too short or too long, and how "
    "many of them?",
    compare_corrections,
)

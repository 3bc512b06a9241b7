"""A ravine: the use of momentum, and of a learning rate for each weight."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradstep.learn.experiments.experiment import RULE_COLOURS, Conclusion, Experiment, Walker
from gradstep.report import Grid, Line, LineChart, SurfaceChart, SurfacePath
from gradstep.report.scales import Scale
from gradstep.report.words import number
from gradstep.rules import SGD, Adam, RMSprop, Rule

SLOPES = np.array([1.0, 50.0])
START = (-3.6, 1.1)
RAVINE_STEPS = 80
RAVINE_RULES: dict[str, Rule] = {
    "SGD": SGD(lr=0.036),
    "SGD with momentum": SGD(lr=0.02, momentum=0.8),
    "RMSprop": RMSprop(lr=0.05, alpha=0.9),
    "Adam": Adam(lr=0.3, betas=(0.8, 0.95)),
}


def height(p: NDArray[Any]) -> NDArray[Any]:
    """Return ½ (x² + 50 y²) for points of shape (…, 2)."""
    total: NDArray[Any] = 0.5 * (SLOPES * p * p).sum(axis=-1)
    return total


def compare_rules() -> Conclusion:
    """Run four rules from the same place for the same number of steps."""
    paths = walk_all()
    ends = {name: float(height(path)[-1]) for name, path in paths.items()}
    turns = {name: _count_crossings(path[:, 1]) for name, path in paths.items()}
    lines = (
        f"½ (x² + 50 y²) from {START}, {RAVINE_STEPS} steps; the height there is {float(height(np.array(START))):.1f}.",
        *(f"{name}: crosses the ravine {turns[name]} times, and ends at height {ends[name]:.2g}." for name in paths),
        "SGD's rate is near the largest that does not diverge across (2/50); along, it is far too small.",
    )
    return Conclusion(lines, _picture(paths))


def walk_all() -> dict[str, NDArray[Any]]:
    """Return the path of each rule, of shape (RAVINE_STEPS + 1, 2)."""
    return {name: Walker(rule, START).walk(lambda p: SLOPES * p, RAVINE_STEPS) for name, rule in RAVINE_RULES.items()}


def _count_crossings(across: NDArray[Any]) -> int:
    """Count the changes of sign in y, of shape (steps,); skip values within 0.01 of 0, which the picture hides."""
    visible = across[np.abs(across) > 0.01]
    return int((np.diff(np.sign(visible)) != 0).sum())


def _picture(paths: dict[str, NDArray[Any]]) -> Grid:
    x, y = np.linspace(-4.2, 1.6, 72), np.linspace(-1.5, 1.5, 72)
    heights = {name: height(path) for name, path in paths.items()}
    ways = [
        SurfacePath(name, number(float(heights[name][-1])), RULE_COLOURS[name], [(px, py) for px, py in path.tolist()])
        for name, path in paths.items()
    ]
    ground = height(np.stack(np.meshgrid(x, y), axis=-1))
    surface = SurfaceChart("The paths, each with its last height", "along", "across", x, y, ground, ways, (0.0, 0.0))
    lines = [Line(name, range(RAVINE_STEPS + 1), high.tolist(), RULE_COLOURS[name]) for name, high in heights.items()]
    over = LineChart("Height over the minimum", "step", "height", lines, y=Scale(1e-6, 100.0, log=True), tall=300.0)
    return Grid("Momentum in a ravine", [surface, over], columns=1)


EXPERIMENT = Experiment(
    "ravine",
    "Momentum in a ravine",
    "A valley fifty times steeper across than along. What keeps plain descent from taking longer steps, and what does "
    "momentum do about it?",
    compare_rules,
)

"""A ravine: what momentum and a rate for each weight are good for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gradstep.learn.experiments.experiment import COLOURS, INK, PALE, Experiment, Finding, tidy
from gradstep.learn.walker import Walker
from gradstep.rules import SGD, Adam, RMSprop, Rule

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SLOPES = np.array([1.0, 50.0])
START = (-3.6, 1.1)
STEPS = 80
RULES: dict[str, Rule] = {
    "SGD": SGD(lr=0.036),
    "SGD with momentum": SGD(lr=0.02, momentum=0.8),
    "RMSprop": RMSprop(lr=0.05, alpha=0.9),
    "Adam": Adam(lr=0.3, betas=(0.8, 0.95)),
}


def height(p: NDArray[Any]) -> NDArray[Any]:
    """½ (x² + 50 y²) of points (…, 2)."""
    total: NDArray[Any] = 0.5 * (SLOPES * p * p).sum(axis=-1)
    return total


def run() -> Finding:
    """Four rules from the same place, for the same number of steps."""
    paths = {name: _path(rule) for name, rule in RULES.items()}
    ends = {name: float(height(path)[-1]) for name, path in paths.items()}
    turns = {name: _crossings(path[:, 1]) for name, path in paths.items()}
    lines = (
        f"½ (x² + 50 y²) from {START}, {STEPS} steps; the height there is {float(height(np.array(START))):.1f}.",
        *(f"{name}: crosses the ravine {turns[name]} times, and ends at height {ends[name]:.2g}." for name in paths),
        "SGD's rate is near the largest that does not diverge across (2/50); along, it is far too small.",
    )
    return Finding(lines, (10.5, 6.2), lambda figure: _draw(figure, paths))


def _crossings(across: NDArray[Any]) -> int:
    """How often it goes from one side to the other; steps too small to be seen in the picture do not count."""
    seen = across[np.abs(across) > 0.01]
    return int((np.diff(np.sign(seen)) != 0).sum())


def _path(rule: Rule) -> NDArray[Any]:
    walker = Walker(rule, START)
    places = [walker.p]
    for _ in range(STEPS):
        walker.step(SLOPES * walker.p)
        places.append(walker.p)
    return np.array(places)


def _draw(figure: Figure, paths: dict[str, NDArray[Any]]) -> None:
    grid = figure.add_gridspec(2, 3, width_ratios=(1, 1, 0.95))
    x, y = np.meshgrid(np.linspace(-4.2, 1.6, 120), np.linspace(-1.5, 1.5, 120))
    for i, (name, path) in enumerate(paths.items()):
        axes = figure.add_subplot(grid[i // 2, i % 2])
        axes.contour(x, y, height(np.stack([x, y], axis=-1)), levels=np.geomspace(0.05, 60, 11), colors=PALE)
        axes.plot(path[:, 0], path[:, 1], color=COLOURS[name], linewidth=1.2, marker=".", markersize=3)
        axes.plot(*START, "o", color="white", markeredgecolor=INK, markersize=5)
        axes.plot(0, 0, "+", color=INK, markersize=9)
        axes.set(xlim=(-4.2, 1.6), ylim=(-1.5, 1.5))
        tidy(axes, name, "along", "across")
    axes = figure.add_subplot(grid[:, 2])
    for name, path in paths.items():
        axes.plot(height(path), color=COLOURS[name], label=name)
    axes.set_yscale("log")
    axes.set_ylim(bottom=1e-6)
    tidy(axes, "Height over the minimum", "step", "")
    axes.legend(frameon=False, fontsize=9)


EXPERIMENT = Experiment(
    "ravine",
    "Momentum in a ravine",
    "A valley fifty times steeper across than along. What keeps plain descent from taking longer steps, and what does "
    "momentum do about it?",
    run,
)

"""What each optimizer keeps for a weight, and what a step costs: measured here and now."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np

import gradstep.numpy as gn
from gradstep.learn.experiments.experiment import COLOURS, INK, PALE, QUIET, Experiment, Finding, tidy
from gradstep.learn.walker import Walker
from gradstep.planner import plan
from gradstep.planner.units import size
from gradstep.rules import SGD, Adafactor, Adam, AdamW, Lion, RMSprop, Rule

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHAPE = (1024, 1024)
ROUNDS = 9
RULES: dict[str, Rule] = {
    "SGD": SGD(),
    "SGD with momentum": SGD(momentum=0.9),
    "RMSprop": RMSprop(),
    "Adam": Adam(),
    "AdamW": AdamW(),
    "Lion": Lion(),
    "Adafactor": Adafactor(),
}


@final
@dataclass(frozen=True)
class Cost:
    """Of one optimizer.

    Attributes:
        state: bytes of state for each weight, counted in the arrays that a step made.
        step: seconds of gradstep's step.
        plain: seconds of the same formula in plain NumPy.
    """

    state: float
    step: float
    plain: float


def run() -> Finding:
    """A matrix of a million weights, one step after the other with every optimizer, in turns."""
    costs = {name: _cost(rule) for name, rule in RULES.items()}
    lines = [f"One float32 matrix of {SHAPE[0]:,} × {SHAPE[1]:,}; medians of {ROUNDS} steps taken in turns."]
    for name, cost in costs.items():
        lines.append(
            f"{name}: {cost.state:.2f} bytes of state a weight, {1e3 * cost.step:.2f} ms a step; "
            f"plain NumPy {1e3 * cost.plain:.2f} ms, {cost.plain / cost.step:.1f} times as long."
        )
    large = plan("3B", optimizer="adamw")
    lines.append(
        f"Weight and gradient take 8 bytes besides. For 3 billion weights with AdamW that makes "
        f"{size(large.total)}, of which state {size(large.of('state'))} (gradstep plan 3B)."
    )
    return Finding(tuple(lines), (10.5, 4), lambda figure: _draw(figure, costs))


def _cost(rule: Rule) -> Cost:
    rng = np.random.default_rng(0)
    weights, gradient = (rng.normal(size=SHAPE).astype(np.float32) for _ in range(2))
    settings = {name: value for name, value in vars(rule).items() if name != "maximize"}
    optimizer = gn.optimizer(type(rule))([gn.Parameter(weights.copy(), gradient)], **settings)
    walker = Walker(rule, weights, "float32")
    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(ROUNDS + 1):
        for taken, step in zip(times, (optimizer.step, lambda: walker.step(gradient))):
            seconds = _timed(step)
            if turn:  # the first step compiles, and makes the state
                taken.append(seconds)
    state = sum(buffer.nbytes for held in optimizer.buffers.values() for buffer in held)
    return Cost(state / weights.size, statistics.median(times[0]), statistics.median(times[1]))


def _timed(step: Callable[[], None]) -> float:
    started = time.perf_counter()
    step()
    return time.perf_counter() - started


def _draw(figure: Figure, costs: dict[str, Cost]) -> None:
    left, right = figure.subplots(1, 2, sharey=True)
    rows = range(len(costs))
    left.barh(rows, [8.0] * len(costs), color=PALE, height=0.6, label="weight and gradient")
    for row, (name, cost) in enumerate(costs.items()):
        left.barh(row, cost.state, left=8.0, color=COLOURS[name], height=0.6)
        left.text(8.2 + cost.state, row, f"{8 + cost.state:.3g}", va="center", fontsize=9, color=INK)
        right.barh(row - 0.16, 1e3 * cost.step, color=COLOURS[name], height=0.32)
        right.barh(row + 0.16, 1e3 * cost.plain, color=PALE, height=0.32)
        text = f" {cost.plain / cost.step:.1f}×"
        right.text(1e3 * cost.plain, row + 0.16, text, va="center", fontsize=8.5, color=QUIET)
    left.set_yticks(rows, list(costs), color=INK)
    left.invert_yaxis()
    left.set_xlim(0, 18)
    left.set_xticks(range(0, 17, 4))
    tidy(left, "Memory: weight, gradient and state", "bytes for each weight", "")
    tidy(right, "Time: gradstep (colour), plain NumPy (grey)", f"ms a step, {SHAPE[0]:,} × {SHAPE[1]:,} weights", "")
    for axes in (left, right):
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)


EXPERIMENT = Experiment(
    "memory",
    "Memory and cost of each optimizer",
    "Weight and gradient take 4 bytes each. How many more does each optimizer keep, and does twice the state cost "
    "twice the time?",
    run,
)

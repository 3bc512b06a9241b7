"""Measure the bytes of state for each weight and the time of a step, for each optimizer."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import numpy as np

import gradstep.numpy as gn
from gradstep.learn.experiments.experiment import RULE_COLOURS, Conclusion, Experiment, Walker
from gradstep.planner import plan
from gradstep.report import Bar, BarChart, Grid
from gradstep.report.words import size
from gradstep.rules import SGD, Adafactor, Adam, AdamW, Lion, RMSprop, Rule

MATRIX_SHAPE = (1024, 1024)
REPEATS = 9
MEASURED_RULES: dict[str, Rule] = {
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
    """The cost of one optimizer."""

    state: float  # bytes of state for each weight, counted in the arrays that a step made
    step: float  # seconds of gradstep's step
    plain: float  # seconds of the same formula in plain NumPy


def measure_costs() -> Conclusion:
    """Measure each optimizer on a matrix of a million weights, in turns with plain NumPy."""
    costs = {name: _measure_cost(rule) for name, rule in MEASURED_RULES.items()}
    lines = [
        f"One float32 matrix of {MATRIX_SHAPE[0]:,} × {MATRIX_SHAPE[1]:,}; medians of {REPEATS} steps taken in turns."
    ]
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
    return Conclusion(tuple(lines), _picture(costs))


def _measure_cost(rule: Rule) -> Cost:
    rng = np.random.default_rng(0)
    weights, gradient = (rng.normal(size=MATRIX_SHAPE).astype(np.float32) for _ in range(2))
    settings = {name: value for name, value in vars(rule).items() if name != "maximize"}
    optimizer = gn.optimizer(type(rule))([gn.Parameter(weights.copy(), gradient)], **settings)
    walker = Walker(rule, weights, "float32")
    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(REPEATS + 1):
        for measured, step in zip(times, (optimizer.step, lambda: walker.step(gradient))):
            seconds = _time(step)
            if turn:  # the first step compiles and makes the state
                measured.append(seconds)
    state = sum(buffer.nbytes for held in optimizer.buffers.values() for buffer in held)
    return Cost(state / weights.size, statistics.median(times[0]), statistics.median(times[1]))


def _time(step: Callable[[], None]) -> float:
    started = time.perf_counter()
    step()
    return time.perf_counter() - started


def _picture(costs: dict[str, Cost]) -> Grid:
    memory = [
        Bar(name, [(8.0, "pale"), (cost.state, RULE_COLOURS[name])], f"{8 + cost.state:.3g}")
        for name, cost in costs.items()
    ]
    time = []
    for name, cost in costs.items():
        time.append(Bar(name, [(1e3 * cost.step, RULE_COLOURS[name])], f"{1e3 * cost.step:.2f} ms"))
        time.append(Bar("", [(1e3 * cost.plain, "pale")], f"{cost.plain / cost.step:.1f}×"))
    left = BarChart("Memory: weight and gradient (grey), and state", "bytes for each weight", memory)
    unit = f"ms a step, {MATRIX_SHAPE[0]:,} × {MATRIX_SHAPE[1]:,} weights"
    return Grid("Memory and cost", [left, BarChart("Time: gradstep (colour), plain NumPy (grey)", unit, time)])


EXPERIMENT = Experiment(
    "memory",
    "Memory and cost of each optimizer",
    "Weight and gradient take 4 bytes each. How many more does each optimizer keep, and does twice the state cost "
    "twice the time?",
    measure_costs,
)

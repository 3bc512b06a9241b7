"""Save a run, and resume it with another learning rate or without its state."""

import copy
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradstep.learn.experiments.experiment import Conclusion, Experiment, Walker
from gradstep.report import Line, LineChart
from gradstep.rules import AdamW

_LR, SAVED_AT, _STEPS = 0.02, 400, 800
CURVATURE = np.logspace(-1.5, 0.5, 40)
GRADIENT_NOISE = 0.05
RATE_COLOURS = {
    "as before": "black",
    "lr ÷ 10": "green",
    "lr × 10": "vermilion",
    "without its state": "blue",
}


def compare_resumptions() -> Conclusion:
    """Run AdamW on a noisy quadratic and resume it in four ways, with the same noise."""
    noise = np.random.default_rng(3).normal(size=(_STEPS, CURVATURE.size)) * GRADIENT_NOISE
    walker = Walker(AdamW(lr=_LR, weight_decay=0.0), np.full(CURVATURE.size, 3.0))
    before = _train(walker, noise[:SAVED_AT])
    branches = {name: _train(_resume(walker, name), noise[SAVED_AT:]) for name in RATE_COLOURS}
    last = {name: float(losses[-50:].mean()) for name, losses in branches.items()}
    worst = {name: float(losses[:50].max()) for name, losses in branches.items()}
    lines = (
        f"AdamW, lr {_LR:g}, saved after step {SAVED_AT}; the loss there is {before[-50:].mean():.3g} (mean of "
        "50 steps).",
        *(f"Resumed {name}: {loss:.3g} in the end." for name, loss in last.items()),
        f"In the first 50 steps the loss reaches {worst['without its state']:.3g} without the state, and "
        f"{worst['as before']:.3g} with it. The averages start anew: the first step is a full lr in every direction, "
        "however small the gradients have become.",
        "In torch, load_state_dict brings the saved lr back with the state: set the new one after it.",
    )
    return Conclusion(lines, _picture(before, branches))


def _train(walker: Walker, noise: NDArray[Any]) -> NDArray[Any]:
    """Take one step for each row of noise, of shape (steps, weights); return the loss before each step."""
    losses = []
    for step in noise:
        losses.append(0.5 * float((CURVATURE * walker.p * walker.p).sum()))
        walker.step(CURVATURE * walker.p + step)
    return np.array(losses)


def _resume(saved: Walker, how: str) -> Walker:
    walker = copy.deepcopy(saved)
    factor = {"lr ÷ 10": 0.1, "lr × 10": 10.0}.get(how, 1.0)
    walker.rule = replace(saved.rule, lr=_LR * factor)  # type: ignore[call-arg]  # AdamW has an lr
    if how == "without its state":
        walker.state, walker.steps = walker.fresh(), 0
    return walker


def _picture(before: NDArray[Any], branches: dict[str, NDArray[Any]]) -> LineChart:
    steps = range(SAVED_AT, _STEPS)
    lines = [Line("", range(SAVED_AT), before.tolist(), RATE_COLOURS["as before"], thickness=1.2)]
    lines += [
        Line(name, steps, losses.tolist(), RATE_COLOURS[name], thickness=1.2) for name, losses in branches.items()
    ]
    title = f"Saved after step {SAVED_AT}, and resumed in four ways"
    return LineChart(title, "step", "loss", lines, y_log=True, marks=[(SAVED_AT, "saved")], tall=330.0)


EXPERIMENT = Experiment(
    "resume",
    "Resumed with another learning rate",
    "A checkpoint is loaded. What happens to the loss with a tenth of the rate, with ten times the rate, and if the "
    "optimizer's state is left behind?",
    compare_resumptions,
)

"""Decay in the gradient against decay on the weight, by the scale of the gradient."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gradstep.learn.experiments.experiment import COLOURS, INK, Experiment, Finding, tidy
from gradstep.learn.walker import Walker
from gradstep.rules import Adam, AdamW

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LR, DECAY, STEPS, WEIGHTS = 1e-3, 0.1, 1000, 400
SCALES = np.logspace(-4, 3, 15)


def run() -> Finding:
    """Weights of 1 whose gradients are noise of one scale: all that moves their mean is the decay."""
    left = {
        "Adam": _left(Walker(Adam(lr=LR, weight_decay=DECAY), np.ones((len(SCALES), WEIGHTS)))),
        "AdamW": _left(Walker(AdamW(lr=LR, weight_decay=DECAY), np.ones((len(SCALES), WEIGHTS)))),
    }
    expected = (1 - LR * DECAY) ** STEPS
    lines = (
        f"{WEIGHTS} weights at each scale, lr {LR:g}, decay {DECAY:g}, {STEPS:,} steps.",
        f"AdamW: {left['AdamW'].min():.3f} to {left['AdamW'].max():.3f} of the weight is left at every scale; "
        f"(1 − lr · λ)^{STEPS} is {expected:.3f}.",
        f"Adam: {left['Adam'][0]:.3f} is left where gradients are around {SCALES[0]:g}, {left['Adam'][-1]:.3f} where "
        f"they are around {SCALES[-1]:g}.",
    )
    return Finding(lines, (8, 4.2), lambda figure: _draw(figure, left, expected))


def _left(walker: Walker) -> NDArray[Any]:
    """The mean of the weights at each scale after all steps."""
    rng = np.random.default_rng(0)
    for _ in range(STEPS):
        walker.step(rng.normal(size=walker.p.shape) * SCALES[:, None])
    mean: NDArray[Any] = walker.p.mean(axis=1)
    return mean


def _draw(figure: Figure, left: dict[str, NDArray[Any]], expected: float) -> None:
    axes = figure.subplots()
    axes.axhline(expected, color=INK, linewidth=0.8, linestyle=":")
    axes.text(SCALES[-1], expected - 0.02, "(1 − lr · λ) to the number of steps", ha="right", va="top", fontsize=8.5)
    for name, values in left.items():
        axes.plot(SCALES, values, color=COLOURS[name], marker="o", markersize=4, label=name)
    axes.set_xscale("log")
    axes.set_ylim(-0.05, 1.05)
    tidy(axes, "What decay leaves of a weight of 1", "scale of the weight's gradients", "what is left of it")
    axes.legend(frameon=False, loc="lower right", bbox_to_anchor=(1, 0.1))


EXPERIMENT = Experiment(
    "decay",
    "Adam against AdamW: decay by the scale of the gradient",
    "The same decay of 0.1 for all weights. Which weights does Adam decay most, those with large gradients or "
    "those with small ones?",
    run,
)

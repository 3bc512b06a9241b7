"""Weight decay in the gradient against decay on the weight, by the scale of the gradient."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradstep.learn.experiments.experiment import RULE_COLOURS, Conclusion, Experiment, Walker
from gradstep.report import Level, Line, LineChart
from gradstep.report.scales import Scale
from gradstep.rules import Adam, AdamW

_LR, WEIGHT_DECAY, _STEPS, WEIGHTS = 1e-3, 0.1, 1000, 400
SCALES = np.logspace(-4, 3, 15)


def compare_decays() -> Conclusion:
    """Decay weights of 1 whose gradients are noise of one scale, so that only the decay moves their mean."""
    left = {
        "Adam": _remaining_means(Walker(Adam(lr=_LR, weight_decay=WEIGHT_DECAY), np.ones((len(SCALES), WEIGHTS)))),
        "AdamW": _remaining_means(Walker(AdamW(lr=_LR, weight_decay=WEIGHT_DECAY), np.ones((len(SCALES), WEIGHTS)))),
    }
    expected = (1 - _LR * WEIGHT_DECAY) ** _STEPS
    lines = (
        f"{WEIGHTS} weights at each scale, lr {_LR:g}, decay {WEIGHT_DECAY:g}, {_STEPS:,} steps.",
        f"AdamW: {left['AdamW'].min():.3f} to {left['AdamW'].max():.3f} of the weight is left at every scale; "
        f"(1 − lr · λ)^{_STEPS} is {expected:.3f}.",
        f"Adam: {left['Adam'][0]:.3f} is left where gradients are around {SCALES[0]:g}, {left['Adam'][-1]:.3f} where "
        f"they are around {SCALES[-1]:g}.",
    )
    return Conclusion(lines, _picture(left, expected))


def _remaining_means(walker: Walker) -> NDArray[Any]:
    """Return the mean weight at each scale after all steps, of shape (len(SCALES),)."""
    rng = np.random.default_rng(0)
    for _ in range(_STEPS):
        walker.step(rng.normal(size=walker.p.shape) * SCALES[:, None])
    mean: NDArray[Any] = walker.p.mean(axis=1)
    return mean


def _picture(left: dict[str, NDArray[Any]], expected: float) -> LineChart:
    return LineChart(
        "What decay leaves of a weight of 1",
        "scale of the weight's gradients",
        "what is left of it",
        [Line(name, SCALES.tolist(), values.tolist(), RULE_COLOURS[name]) for name, values in left.items()],
        x=Scale(SCALES[0], SCALES[-1], log=True),
        y=Scale(0.0, 1.05),
        levels=[Level(expected, "(1 − lr · λ) to the number of steps")],
        tall=330.0,
    )


EXPERIMENT = Experiment(
    "decay",
    "Adam against AdamW: decay by the scale of the gradient",
    "The same decay of 0.1 for all weights. Which weights does Adam decay most, those with large gradients or "
    "those with small ones?",
    compare_decays,
)

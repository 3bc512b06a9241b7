"""The numbers shown of a run: their titles, how they are written, and their usual bounds."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

from gradstep.monitor.record import Numbers, Update
from gradstep.report.words import seconds, short

HEALTHY_GRADIENT = (0.1, 10.0)
"""Gradient norms of a healthy run: a rule of thumb from fine-tuning, for a loss that is a mean."""

ALARMING_GRADIENT = 100.0
"""A gradient norm above this is alarming; the same rule of thumb. Measured in benchmarks/doctor.py: healthy runs stay
below 10."""

USUAL_RATIO = 1e-3
"""Norm of the update over norm of the weights. Karpathy, CS231n notes, "Ratio of weights:updates"."""


@final
@dataclass(frozen=True)
class Metric:
    """A number of every update that is shown, with its title for readers.

    ``of_group`` returns the number of one group, unless it is not shown by group; ``log`` asks for a logarithmic axis.
    """

    name: str
    title: str
    value: Callable[[Update], float | None]
    of_group: Callable[[Numbers], float | None] | None
    log: bool
    text: Callable[[float], str]


def share(value: float) -> str:
    """Format a share in percent.

    >>> share(0.0), share(0.12345)
    ('0 %', '12.3 %')
    """
    return f"{100 * value:.3g} %"


METRICS = (
    Metric("loss", "Loss", lambda u: u.loss, None, False, short),
    Metric("lr", "Learning rate", lambda u: u.lr, lambda g: g.lr, False, short),
    Metric("grad_norm", "Gradient norm, before clipping", lambda u: u.grad_norm, lambda g: g.grad_norm, True, short),
    Metric("weight_norm", "Weight norm", lambda u: u.weight_norm, lambda g: g.weight_norm, False, short),
    Metric("update_ratio", "Update over weight", lambda u: u.update_ratio, lambda g: g.update_ratio, True, short),
    Metric("root_min", "Smallest √v", lambda u: u.root_min, None, True, short),
    Metric("root_max", "Largest √v", lambda u: u.root_max, None, True, short),
    Metric("unmoved_share", "Unmoved by rounding", lambda u: u.unmoved_share, None, False, share),
    Metric("clip", "Clipped to", lambda u: u.clip, None, False, share),
    Metric("seconds", "Time of the step", lambda u: u.seconds, None, False, seconds),
)  # fmt: skip


def reading(name: str, value: float) -> tuple[str, str]:
    """Return a remark about a value and its level: ``"good"``, ``"notable"``, ``"bad"`` or empty.

    >>> reading("grad_norm", 250.0)
    ('alarming: over 100', 'bad')
    """
    if not math.isfinite(value):
        return "not finite", "bad"
    low, high = HEALTHY_GRADIENT
    if name == "grad_norm":
        if value > ALARMING_GRADIENT:
            return f"alarming: over {ALARMING_GRADIENT:g}", "bad"
        if low <= value <= high:
            return f"healthy: {low:g} to {high:g}", "good"
        return f"healthy is {low:g} to {high:g}", "notable"
    if name == "update_ratio":
        near = USUAL_RATIO / 10 <= value <= USUAL_RATIO * 10
        return f"usual: about {USUAL_RATIO:g}", "good" if near else "notable"
    if name == "unmoved_share" and value > 0.1:
        return "rounding swallows updates", "bad" if value > 0.5 else "notable"
    return "", ""

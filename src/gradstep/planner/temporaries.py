"""The temporary memory of a step."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence
from functools import cache
from math import prod
from types import SimpleNamespace

import numpy as np

from gradstep.planner.parameters import ParameterSpec
from gradstep.planner.state import stays_full
from gradstep.rules import Rule, State

SIDE = 128
"""The side of the square matrix whose update is measured."""

ENGINES = ("auto", "fused", "eager", "compiled")


def temporaries(
    trainable: Sequence[ParameterSpec], rule: Rule, state: str, *, engine: str, gpus: int
) -> tuple[int, str]:
    """Return the temporary bytes of the largest parameter's update, and the reason for them.

    The fused and the compiled engine process a parameter piece by piece; the eager one makes whole tensors, one
    parameter after the other. ``"auto"`` is fused on the CPU if the rule is elementwise, else eager.
    """
    if engine == "auto":
        engine = "fused" if rule.elementwise and not gpus else "eager"
    if engine != "eager":
        return 0, f"the {engine} engine makes none"

    def needed(p: ParameterSpec) -> int:
        """Return the bytes of a parameter's live and decoded arrays, at least float32."""
        slots = rule.slots(len(p.shape))
        decoded = (2 if p.is_half else 0) + (len(slots) if state != "float32" and stays_full(p) is None else 0)
        return (live_values(rule, len(p.shape)) + decoded) * max(4, p.itemsize) * prod(p.part)

    return max(map(needed, trainable), default=0), "an estimate: the eager engine at the largest parameter"


def refuse(engine: str, rule: Rule, gpus: int) -> str | None:
    """Return why an engine cannot run a rule on these devices, or None."""
    if engine == "fused" and gpus:
        return "engine='fused' runs on the CPU only; engine='compiled' makes no temporaries on a GPU"
    if engine in ("fused", "compiled") and not rule.elementwise:
        return f"engine={engine!r} works element by element, and {type(rule).__name__} needs means: take engine='eager'"
    return None


@cache
def live_values(rule: Rule, ndim: int) -> int:
    """Measure how many new values per element an update has in memory at once, by running it on a small tensor.

    >>> from gradstep.rules import SGD
    >>> live_values(SGD(), 2)  # the scaled gradient, the decayed one, the step, the new weights
    4
    """
    shape = (SIDE, SIDE) if ndim > 1 else (SIDE * SIDE,)
    p, g = np.ones(shape, np.float32), np.ones(shape, np.float32)
    slots = {s.name: np.full(s.shape(shape), s.fill, np.float32) for s in rule.slots(len(shape))}
    c = SimpleNamespace(**{k: np.float32(v) for k, v in rule.coefficients(1, **type(rule).scalars).items()})
    running = tracemalloc.is_tracing()
    if not running:
        tracemalloc.start()
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    with np.errstate(all="ignore"):
        scaled = g * np.float32(1)  # stays in memory until the update is over, as in the engine
        new = rule.update(p, scaled, State(**slots), c)
    peak = tracemalloc.get_traced_memory()[1] - before
    if not running:
        tracemalloc.stop()
    return round(peak / int(new.nbytes))

"""Statistics of a gradstep optimizer: collected in the pass that updates, whichever engine runs it."""

from __future__ import annotations

from functools import partial
from typing import final

from gradstep.engines.statistics import SUMS
from gradstep.monitor.statistics import NOT_SQUARED, Collected, Floats, Found, Statistics, non_finite, parameters
from gradstep.optimizers import Optimizer
from gradstep.optimizers.statistics import Statistics as OfStep
from gradstep.optimizers.who import Detail


@final
class FusedStatistics(Statistics):
    """Asks the optimizer for them.

    Args:
        optimizer: is watched.
        detail: what is wanted at least.
    """

    def __init__(self, optimizer: Optimizer, detail: Detail) -> None:
        self._optimizer, self._detail = optimizer, detail
        slots = optimizer.rule()().slots(ndim=1)
        self._linear = next((slot.name for slot in slots if not slot.signed), "") == NOT_SQUARED

    def before(self, *, closure: bool) -> Detail:
        return self._detail

    def collect(self) -> Found:
        report = self._optimizer.last_step
        assert report is not None
        step = report.statistics
        assert step is not None
        finite = step.finite
        bad = None if finite else self._bad(step)  # while there are gradients
        return Found(finite, partial(_collected, step, bad, self._linear))

    def drop(self) -> None:
        pass

    def _bad(self, step: OfStep) -> Floats:
        if step.detail == "groups":
            every = [group["params"] for group in self._optimizer.param_groups]
        else:
            every = [[p] for p in parameters(self._optimizer)]
        return non_finite(step.grad_square, lambda row: every[step.index[row]])


def _collected(step: OfStep, bad: Floats | None, linear: bool) -> Collected:
    table = step.table
    if linear:
        table = table.copy()
        table[:, SUMS:] **= 2
    return Collected(step.index, step.groups, step.elements, table, bad)

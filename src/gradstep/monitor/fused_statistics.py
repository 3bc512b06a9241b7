"""Statistics of a gradstep optimizer: collected in the pass that updates, whichever engine runs it."""

from __future__ import annotations

from functools import partial
from typing import final

from gradstep.engines.statistics import SUMS
from gradstep.monitor.statistics import NOT_SQUARED, Collected, Floats, Found, Statistics, non_finite
from gradstep.optimizers import Optimizer
from gradstep.optimizers.statistics import Statistics as OfStep


@final
class FusedStatistics(Statistics):
    """Sets the optimizer's ``watch`` for the steps that are wanted."""

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        slots = optimizer.rule()().slots(ndim=1)
        self._linear = next((slot.name for slot in slots if not slot.signed), "") == NOT_SQUARED

    def before(self, *, closure: bool) -> None:
        self._optimizer.watch = True

    def collect(self) -> Found:
        self.drop()
        report = self._optimizer.last_step
        assert report is not None
        step = report.statistics
        assert step is not None
        finite = step.finite
        bad = None if finite else non_finite(self._optimizer, step.index, step.grad_square)  # while there are gradients
        return Found(finite, partial(_collected, step, bad, linear=self._linear))

    def drop(self) -> None:
        self._optimizer.watch = False


def _collected(step: OfStep, bad: Floats | None, *, linear: bool) -> Collected:
    table = step.table
    if linear:
        table = table.copy()
        table[:, SUMS:] **= 2
    return Collected(step.index, step.elements, table, bad)

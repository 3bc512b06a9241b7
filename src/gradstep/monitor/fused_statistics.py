"""Statistics of a gradstep optimizer: collected in the pass that updates, whichever engine runs it."""

from __future__ import annotations

from typing import final

import numpy as np

from gradstep.monitor.statistics import NOT_SQUARED, Collected, Floats, Statistics, non_finite
from gradstep.optimizers import Optimizer


@final
class FusedStatistics(Statistics):
    """Sets the optimizer's ``watch`` for the steps that are wanted."""

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        slots = optimizer.rule()().slots(ndim=1)
        self._linear = next((slot.name for slot in slots if not slot.signed), "") == NOT_SQUARED

    def before(self, *, closure: bool) -> None:
        self._optimizer.watch = True

    def collect(self) -> Collected:
        self.drop()
        report = self._optimizer.last_step
        assert report is not None
        found = report.statistics
        assert found is not None
        index = found.index.astype(np.int32)
        return Collected(
            index=index,
            elements=found.elements.astype(np.float64),
            grad_square=found.grad_square,
            weight_square=found.param_square,
            update_square=found.update_square,
            unmoved=found.unmoved,
            second_min=self._square(found.second_min),
            second_max=self._square(found.second_max),
            non_finite=non_finite(self._optimizer, index, found.grad_square),
        )

    def drop(self) -> None:
        self._optimizer.watch = False

    def _square(self, second: Floats) -> Floats:
        return np.square(second) if self._linear else second

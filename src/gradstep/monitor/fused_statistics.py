"""Statistics of a gradstep optimizer: collected in the pass that updates, whichever engine runs it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import numpy as np
from numpy.typing import NDArray

from gradstep.monitor.statistics import NOT_SQUARED, Collected, Floats, Statistics, non_finite
from gradstep.optimizers import Optimizer
from gradstep.optimizers.table import parameter_names


@final
class FusedStatistics(Statistics):
    """Sets the optimizer's ``watch`` for the steps that are wanted."""

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        slots = optimizer.rule()().slots(ndim=1)
        self._linear = next((slot.name for slot in slots if not slot.signed), "") == NOT_SQUARED
        self._names: Sequence[str] = ()
        self._index: NDArray[np.int32] = np.zeros(0, np.int32)

    def before(self, *, closure: bool) -> None:
        self._optimizer.watch = True

    def collect(self) -> Collected:
        self.drop()
        report = self._optimizer.last_step
        assert report is not None
        found = report.statistics
        assert found is not None
        if found.names != self._names:
            self._names, self._index = found.names, self._places(found.names)
        return Collected(
            index=self._index,
            elements=found.elements.astype(np.float64),
            grad_square=found.grad_square,
            weight_square=found.param_square,
            update_square=found.update_square,
            unmoved=found.unmoved,
            second_min=self._square(found.second_min),
            second_max=self._square(found.second_max),
            non_finite=non_finite(self._optimizer, self._index, found.grad_square),
        )

    def drop(self) -> None:
        self._optimizer.watch = False

    def _square(self, second: Floats) -> Floats:
        return np.square(second) if self._linear else second

    def _places(self, names: Sequence[str]) -> NDArray[np.int32]:
        groups = enumerate(self._optimizer.param_groups)
        every = [name for number, group in groups for name in parameter_names(group, number)]
        places = {name: place for place, name in enumerate(every)}
        return np.array([places[name] for name in names], dtype=np.int32)

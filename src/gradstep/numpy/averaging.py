"""NumPy optimizers of rules that average the weights: a model is trained at some weights, and evaluated at others."""

from abc import ABC
from collections.abc import Mapping
from typing import Any

import numpy as np

from gradstep.engines.step import defer_signals
from gradstep.numpy.base import Floats
from gradstep.numpy.rule_optimizer import RuleOptimizer, check_length
from gradstep.numpy.table import fit_array
from gradstep.rules import State

_KEY = "training_weights"


class AveragingRuleOptimizer(RuleOptimizer, ABC):
    """A NumPy optimizer whose :meth:`eval` and :meth:`train` change the parameters between two sets of weights.

    The class of every rule with ``averages`` has it as its base. It is made in train mode.

    Args:
        params, positional, named: as of :class:`RuleOptimizer`.

    >>> import gradstep.numpy as gn
    >>> p = gn.Parameter(np.ones(1), grad=np.ones(1))
    >>> optimizer = gn.ScheduleFreeSGD([p], lr=0.1, momentum=0.5)
    >>> for _ in range(2):  # z: 0.9, 0.8; x: 0.9, 0.85; y lies between
    ...     optimizer.step()
    >>> optimizer.eval()
    >>> average = p.data.round(4).tolist()
    >>> optimizer.train()
    >>> average, p.data.round(4).tolist()
    ([0.85], [0.825])
    """

    _training_weights: list[Floats | None] | None = None  # for each parameter; None in train mode

    def eval(self) -> None:
        """Give the parameters their averaged weights, to evaluate or publish the model; nothing if they have them.

        Memory has a copy of the other weights until :meth:`train`, so that training goes on from the same bits. In
        between :meth:`step` and :meth:`load_state_dict` raise an error; :meth:`state_dict` has these weights too.

        Raises:
            ValueError: an array is read-only; nothing was changed.
        """
        if self._training_weights is not None:
            return
        averages = [self._average(i, param.data) for i, param in enumerate(self.params)]
        for i, (param, new) in enumerate(zip(self.params, averages)):
            if new is not None and not param.data.flags.writeable:
                raise ValueError(f"parameter {i} cannot be written to, since its array is read-only")
        with defer_signals():
            self._training_weights = [
                None if new is None else param.data.copy() for param, new in zip(self.params, averages)
            ]
            _write(self.params, averages)

    def train(self) -> None:
        """Give the parameters the weights that training goes on from; nothing if they have them."""
        if self._training_weights is not None:
            with defer_signals():
                _write(self.params, self._training_weights)
                self._training_weights = None

    def step(self) -> None:
        """Update as :meth:`RuleOptimizer.step`; RuntimeError if the parameters have their averaged weights."""
        self._refuse_averaged("step()")
        super().step()

    def state_dict(self) -> dict[str, Any]:
        """Return what :meth:`RuleOptimizer.state_dict` does; in eval mode with the weights of training."""
        saved = super().state_dict()
        if self._training_weights is not None:
            saved[_KEY] = [None if weights is None else weights.copy() for weights in self._training_weights]
        return saved

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load a state; one that was saved in eval mode, and belongs with the averaged weights, leaves it in eval mode.

        Args:
            state: a result of :meth:`state_dict`.

        Raises:
            RuntimeError: the parameters have their averaged weights; or as of :class:`RuleOptimizer`.
        """
        self._refuse_averaged("load_state_dict()")
        weights = state.get(_KEY)
        if weights is not None:
            check_length(weights, len(self.params))
            weights = [
                None if own is None else fit_array(own, p.data, p.data.shape, f"{_KEY} of parameter {i}").copy("K")
                for i, (own, p) in enumerate(zip(weights, self.params))
            ]
        super().load_state_dict(state)
        self._training_weights = weights

    def _average(self, i: int, data: Floats) -> Floats | None:
        """Return the averaged weights of a parameter; None before its first step."""
        slots = {slot.name: self.buffers_of(slot.name)[i] for slot in self.rule.slots(data.ndim)}
        if any(array is None for array in slots.values()):
            return None
        return np.asarray(self.rule.averaged(data, State(**slots)))

    def _refuse_averaged(self, before: str) -> None:
        if self._training_weights is not None:
            raise RuntimeError(f"the parameters have their averaged weights: call optimizer.train() before {before}")


def _write(params: list[Any], arrays: list[Floats | None]) -> None:
    for param, array in zip(params, arrays):
        if array is not None:
            param.data[...] = array

"""Optimizers of rules that average the weights: a model is trained at some weights, and evaluated at others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gradstep.engines.step import defer_signals
from gradstep.optimizers.arguments import build_rules
from gradstep.optimizers.front import Optimizer
from gradstep.optimizers.memory import local_tensor
from gradstep.optimizers.state.arrays import decode_slot
from gradstep.rules import Rule, State

if TYPE_CHECKING:
    from typing_extensions import Self

    from gradstep.optimizers.checkpoint.matching import LoadReport


class AveragingOptimizer(Optimizer):
    """An optimizer whose :meth:`eval` and :meth:`train` change the parameters between two sets of weights.

    The class of every rule with ``averages`` has it as its base. It is made in train mode.

    Args:
        params, positional, named: as of :class:`gradstep.Optimizer`.

    >>> import torch, gradstep
    >>> p = torch.nn.Parameter(torch.ones(1))
    >>> optimizer = gradstep.ScheduleFreeSGD([p], lr=0.1)
    >>> optimizer.eval()
    >>> optimizer.step()
    Traceback (most recent call last):
    RuntimeError: the parameters have their averaged weights: call optimizer.train() before step()
    """

    _training_weights: dict[Tensor, Tensor]
    _averaged: bool

    def __new__(cls, *args: Any, **named: Any) -> Self:
        self = super().__new__(cls, *args, **named)
        self._training_weights, self._averaged = {}, False
        return self

    def eval(self) -> None:
        """Give the parameters their averaged weights, to evaluate or publish the model; nothing if they have them.

        Memory has a copy of the other weights until :meth:`train`, so that training goes on from the same bits. In
        between ``step()``, ``state_dict()`` and ``load_state_dict()`` raise an error, and a backward pass does that
        releases gradients. A copy of the optimizer (``copy.deepcopy``, ``pickle``) has both weights too.
        """
        with self._lock, defer_signals(), torch.no_grad():
            if self._averaged:
                return
            rules = build_rules(self._rules, self.param_groups)
            self._averaged = True
            try:
                for group, rule in zip(self.param_groups, rules, strict=True):
                    for p in group["params"] if rule.averages else ():
                        self._average_one(rule, p)
            except BaseException:  # not one half of the parameters with averaged weights
                self.train()
                raise

    def _average_one(self, rule: Rule, p: Tensor) -> None:
        if entry := self.__dict__["state"].get(p):
            self._training_weights[p] = p.detach().clone()
            local_tensor(p).copy_(_average(rule, p, entry))

    def train(self) -> None:
        """Give the parameters the weights that training goes on from; nothing if they have them."""
        with self._lock, defer_signals(), torch.no_grad():
            for p, weights in self._training_weights.items():
                p.copy_(weights)
            self._training_weights.clear()  # in place: a shallow copy of this optimizer must not restore them later
            self._averaged = False

    def state_dict(self) -> dict[str, Any]:
        self._refuse_averaged("state_dict(), and save the weights with the state in train mode")
        return super().state_dict()

    def load_state_dict(self, state_dict: dict[str, Any], strict: bool = True) -> LoadReport | None:  # type: ignore[override]
        self._refuse_averaged("weights and state are loaded")
        return super().load_state_dict(state_dict, strict)

    def _step(self, closure: Any = None, **named: Any) -> Any:
        self._refuse_averaged("step()")
        return super()._step(closure, **named)

    def _refuse_averaged(self, before: str) -> None:
        if self._averaged:
            raise RuntimeError(f"the parameters have their averaged weights: call optimizer.train() before {before}")

    def __getstate__(self) -> dict[str, Any]:
        names = ("_training_weights", "_averaged")
        return {**super().__getstate__(), **{name: self.__dict__[name] for name in names}}


def _average(rule: Rule, p: Tensor, entry: dict[str, Any]) -> Tensor:
    """Return the averaged weights of a parameter with state, or of this process's part of it."""
    local = {key: local_tensor(value) if isinstance(value, Tensor) else value for key, value in entry.items()}
    own = local_tensor(p.detach())
    slots = {slot.name: decode_slot(slot, local, own) for slot in rule.slots(p.dim())}
    widest = max((value.dtype for value in slots.values()), key=lambda dtype: dtype.itemsize, default=own.dtype)
    return rule.averaged(own.to(widest), State(**slots))  # type: ignore[no-any-return]

"""Optimizers of rules that average the weights: a model is trained at some weights, and evaluated at others."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from gradstep.optimizers.arguments import build_rules
from gradstep.optimizers.front import Optimizer
from gradstep.optimizers.memory import local_tensor
from gradstep.optimizers.state.arrays import decode_slot
from gradstep.rules import Rule, State


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
    _refusals: list[RemovableHandle]

    def __new__(cls, *args: Any, **named: Any) -> AveragingOptimizer:
        self = super().__new__(cls, *args, **named)
        self._training_weights, self._refusals = {}, []
        return self

    def eval(self) -> None:
        """Give the parameters their averaged weights, to evaluate or publish the model; nothing if they have them.

        Memory has a copy of the other weights until :meth:`train`, so that training goes on from the same bits. In
        between ``step()``, ``state_dict()`` and ``load_state_dict()`` raise an error.
        """
        with self._lock, torch.no_grad():
            if self._refusals:
                return
            self._refuse_in_between()
            state = self.__dict__["state"]
            for group, rule in zip(self.param_groups, build_rules(self._rules, self.param_groups), strict=True):
                for p in group["params"] if rule.averages else ():
                    if state.get(p):
                        self._training_weights[p] = p.detach().clone()
                        local_tensor(p).copy_(_average(rule, p, state[p]))

    def train(self) -> None:
        """Give the parameters the weights that training goes on from; nothing if they have them."""
        with self._lock, torch.no_grad():
            for p, weights in self._training_weights.items():
                p.copy_(weights)
            for handle in self._refusals:
                handle.remove()
            self._training_weights, self._refusals = {}, []

    def _refuse_in_between(self) -> None:
        def refuse(before: str) -> Any:
            def hook(*_: Any) -> None:
                raise RuntimeError(
                    f"the parameters have their averaged weights: call optimizer.train() before {before}"
                )

            return hook

        self._refusals = [
            self.register_step_pre_hook(refuse("step()")),
            self.register_state_dict_pre_hook(
                refuse("state_dict(), and save the weights with the state in train mode")
            ),
            self.register_load_state_dict_pre_hook(refuse("weights and state are loaded")),
        ]


def _average(rule: Rule, p: Tensor, entry: dict[str, Any]) -> Tensor:
    """Return the averaged weights of a parameter with state, or of this process's part of it."""
    local = {key: local_tensor(value) if isinstance(value, Tensor) else value for key, value in entry.items()}
    own = local_tensor(p.detach())
    slots = {slot.name: decode_slot(slot, local, own) for slot in rule.slots(p.dim())}
    widest = max((value.dtype for value in slots.values()), key=lambda dtype: dtype.itemsize, default=own.dtype)
    return rule.averaged(own.to(widest), State(**slots))  # type: ignore[no-any-return]

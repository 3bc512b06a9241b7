"""Optimizers of rules that average the weights: a model is trained at some weights, and evaluated at others."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gradstep.engines.step import defer_signals
from gradstep.optimizers.arguments import build_rules
from gradstep.optimizers.checkpoint.matching import read_header
from gradstep.optimizers.front import Optimizer
from gradstep.optimizers.memory import local_tensor
from gradstep.optimizers.state.arrays import decode_slot
from gradstep.optimizers.state.storage import HEADER
from gradstep.rules import Rule, State

if TYPE_CHECKING:
    from typing_extensions import Self

    from gradstep.optimizers.checkpoint.matching import LoadReport

TRAINING_WEIGHTS = "training_weights"
"""The key of the weights that training goes on from, in the state of a checkpoint that was saved in eval mode."""

_AVERAGED = "averaged"  # the key, in the header of such a checkpoint's groups, that says that it has these weights


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
        between ``step()`` and ``load_state_dict()`` raise an error, and a backward pass does that releases gradients.
        A copy of the optimizer (``copy.deepcopy``, ``pickle``) has both weights too, and so has a checkpoint
        (:meth:`state_dict`).
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
        """Return the state; in eval mode with the weights of training, since the model has the averaged ones.

        Hugging Face's Trainer saves after an evaluation, and so in eval mode.
        """
        saved = super().state_dict()
        if self._averaged:
            for group, own in zip(saved["param_groups"], self.param_groups, strict=True):
                for key, p in zip(group["params"], own["params"], strict=True):
                    weights = self._training_weights.get(p)
                    if weights is None:
                        continue
                    # A state of no dimensions is a number to torch, and becomes float32.
                    weights = weights if weights.dim() else weights.reshape(1)
                    saved["state"][key] = {**saved["state"][key], TRAINING_WEIGHTS: weights}
                    group[HEADER] = json.dumps({**(read_header({"param_groups": [group]}) or {}), _AVERAGED: True})
        return saved

    def load_state_dict(self, state_dict: dict[str, Any], strict: bool = True) -> LoadReport | None:  # type: ignore[override]
        """Load a state; one that was saved in eval mode leaves the optimizer in eval mode.

        The model then needs the weights that were saved with it, the averaged ones; :meth:`train` gives it those of
        training.

        Args:
            state_dict, strict: as of :meth:`gradstep.Optimizer.load_state_dict`.

        Raises:
            RuntimeError: the optimizer is in eval mode, or the state was saved in eval mode and its weights of training
                are missing or do not fit; or as of :class:`gradstep.Optimizer`. Nothing was changed.
        """
        self._refuse_averaged("weights and state are loaded")
        _check_training_weights(state_dict)
        return super().load_state_dict(state_dict, strict)

    def __setstate__(self, state: dict[str, Any]) -> None:
        weights = _take_training_weights(state.get("state", {}))  # of a checkpoint; raises before anything has changed
        super().__setstate__(state)
        if weights:
            self._training_weights.update(weights)
            self._averaged = True

    def _step(self, closure: Any = None, **named: Any) -> Any:
        self._refuse_averaged("step()")
        return super()._step(closure, **named)

    def _refuse_averaged(self, before: str) -> None:
        if self._averaged:
            raise RuntimeError(f"the parameters have their averaged weights: call optimizer.train() before {before}")

    def __getstate__(self) -> dict[str, Any]:
        names = ("_training_weights", "_averaged")
        return {**super().__getstate__(), **{name: self.__dict__[name] for name in names}}


def _check_training_weights(state_dict: dict[str, Any]) -> None:
    """Refuse a state that was saved in eval mode and has lost the weights of training.

    A distributed checkpoint reads only what the optimizer has that it is loaded into, and that is in train mode.
    """
    state = state_dict.get("state", {})
    for group in state_dict.get("param_groups", ()):
        header = read_header({"param_groups": [group]}) if HEADER in group else None
        if header and header.get(_AVERAGED):
            entries = [entry for key in group["params"] if (entry := state.get(key))]
            if any(TRAINING_WEIGHTS not in entry for entry in entries):
                raise RuntimeError(
                    f"the loaded state dict was saved in eval mode, and its {TRAINING_WEIGHTS!r} are missing: a "
                    "distributed checkpoint reads only what this optimizer has, so save it after optimizer.train()"
                )


def _take_training_weights(state: Mapping[Any, Any]) -> dict[Tensor, Tensor]:
    """Take the weights of training out of a state that was saved in eval mode, and return them by their parameters.

    Args:
        state: the entry of every parameter, read from a checkpoint.

    Raises:
        RuntimeError: some do not fit; all are left where they are.
    """
    held = [(p, entry) for p, entry in state.items() if isinstance(p, Tensor) and TRAINING_WEIGHTS in entry]
    for p, entry in held:
        weights = entry[TRAINING_WEIGHTS]
        is_alike = isinstance(weights, Tensor) and weights.is_floating_point() == p.is_floating_point()
        if not is_alike or weights.shape != (p.shape or (1,)):
            given = f"{weights.dtype} of shape {tuple(weights.shape)}" if isinstance(weights, Tensor) else repr(weights)
            raise RuntimeError(
                f"the loaded {TRAINING_WEIGHTS!r} of a parameter do not fit: they are {given}, and the parameter is "
                f"{p.dtype} of shape {tuple(p.shape)}. Load the state beside the weights that it was saved with"
            )
    # In the parameter's type, as Module.load_state_dict() reads weights.
    return {p: entry.pop(TRAINING_WEIGHTS).reshape(p.shape).to(p.dtype) for p, entry in held}


def _average(rule: Rule, p: Tensor, entry: dict[str, Any]) -> Tensor:
    """Return the averaged weights of a parameter with state, or of this process's part of it."""
    local = {key: local_tensor(value) if isinstance(value, Tensor) else value for key, value in entry.items()}
    own = local_tensor(p.detach())
    slots = {slot.name: decode_slot(slot, local, own) for slot in rule.slots(p.dim())}
    widest = max((value.dtype for value in slots.values()), key=lambda dtype: dtype.itemsize, default=own.dtype)
    return rule.averaged(own.to(widest), State(**slots))  # type: ignore[no-any-return]

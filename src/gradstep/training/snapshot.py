"""Copies of a model, its optimizers and the random generators, from which a trial is undone bit for bit."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from copy import deepcopy
from typing import Any, final

import torch
from torch import Tensor, nn

from gradstep.optimizers import Optimizer
from gradstep.optimizers.wrapped import innermost
from gradstep.training.applying import parameters
from gradstep.training.random_state import generator_states, set_generator_states


@final
class NestedCopy:
    """A copy of nested dictionaries, lists and tensors as they are now.

    They are put back *in place*: whoever holds a tensor, a parameter group or a state dictionary goes on holding it.
    A tensor that is found in several places is copied once.

    Args:
        things: what to keep. Numbers, text and the like are kept by their containers.

    >>> state = {"step": torch.tensor(3.0), "betas": [0.9, 0.999]}
    >>> kept = NestedCopy(state)
    >>> _ = state["step"].add_(1), state["betas"].append(7), state.pop("betas")
    >>> kept.restore()
    >>> state, kept.nbytes
    ({'step': tensor(3.), 'betas': [0.9, 0.999]}, 4)
    """

    def __init__(self, *things: Any) -> None:
        self._undo: dict[int, Callable[[], Any]] = {}
        self._copies: list[Tensor] = []
        self._held = things  # an id says what it is only as long as the thing lives
        for thing in things:
            self._keep(thing)

    @property
    def nbytes(self) -> int:
        """Bytes of the copies."""
        return sum(t.numel() * t.element_size() for t in self._copies)

    @torch.no_grad()
    def restore(self) -> None:
        """Put everything back; as often as one likes."""
        for undo in self._undo.values():
            undo()

    def _keep(self, thing: Any) -> None:
        if id(thing) in self._undo:
            return
        if isinstance(thing, Tensor):
            # Not clone(): that of a parameter is no parameter's, but that of a subclass may be anything.
            copy = thing.detach().clone(memory_format=torch.preserve_format)
            self._copies.append(copy)
            self._undo[id(thing)] = lambda: thing.detach().copy_(copy)
        elif isinstance(thing, MutableMapping):
            items = dict(thing)
            self._undo[id(thing)] = lambda: _refill(thing, items)
            for value in items.values():
                self._keep(value)
        elif isinstance(thing, list):
            values = list(thing)
            self._undo[id(thing)] = lambda: thing.__setitem__(slice(None), values)
            for value in values:
                self._keep(value)
        elif isinstance(thing, tuple):
            for value in thing:
                self._keep(value)


def _refill(mapping: MutableMapping[Any, Any], items: dict[Any, Any]) -> None:
    mapping.clear()
    mapping.update(items)


@final
class Snapshot:
    """A model, its optimizers and the random numbers of torch, NumPy and Python, as they are now.

    Of the model: parameters, buffers (also those that a forward pass replaces), gradients, and the flags
    ``requires_grad`` and ``training``. Of the optimizers: parameter groups and state. What either keeps elsewhere, as a
    plain Python attribute, is not seen.

    It holds one copy of the weights, the buffers and the optimizer's state. While it exists, there are no gradients.

    Args:
        model: any module.
        optimizers: any of torch's kind, of parameters in the model or elsewhere.
    """

    def __init__(self, model: nn.Module, *optimizers: torch.optim.Optimizer) -> None:
        params = list(dict.fromkeys([*model.parameters(), *parameters(optimizers)]))
        modules = list(model.modules())
        self._flags = [(p, p.requires_grad) for p in params], [(m, m.training) for m in modules]
        inner = [innermost(optimizer) for optimizer in optimizers]
        self._optimizers = [
            _OptimizerCopy(one) if isinstance(one, Optimizer) else NestedCopy(one.state) for one in inner
        ]
        # The only list of a module's buffers that still knows those that are None.
        self._values = NestedCopy(params, [m._buffers for m in modules], [o.param_groups for o in inner])
        self._generators = generator_states()
        self._gradients = [(p, p.grad) for p in params]
        for p in params:
            p.grad = None

    @property
    def nbytes(self) -> int:
        """Bytes of the copies."""
        return self._values.nbytes + sum(optimizer.nbytes for optimizer in self._optimizers)

    def restore(self) -> None:
        """Put everything back but the gradients; as often as one likes."""
        for optimizer in self._optimizers:
            optimizer.restore()
        self._values.restore()
        params, modules = self._flags
        for p, requires in params:
            p.requires_grad_(requires)
            p.grad = None
        for module, training in modules:
            module.training = training
        set_generator_states(self._generators)

    def close(self) -> None:
        """Put everything back, and the gradients."""
        self.restore()
        for p, gradient in self._gradients:
            p.grad = gradient


@final
class _OptimizerCopy:
    """The state of one of gradstep's optimizers, through its own ``state_dict``.

    Not through ``state``, which, once looked at, is looked at again in each step (see :class:`gradstep.Optimizer`).
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        self._saved: dict[str, Any] = deepcopy(optimizer.state_dict())
        self._last_step = optimizer.last_step

    @property
    def nbytes(self) -> int:
        entries = self._saved["state"].values()
        return sum(v.nbytes for entry in entries for v in entry.values() if isinstance(v, Tensor))

    def restore(self) -> None:
        groups = self._optimizer.param_groups
        self._optimizer.load_state_dict(self._saved)
        self._optimizer.param_groups = groups  # the very dictionaries; what they hold is put back with the weights
        self._optimizer.last_step = self._last_step

"""Copies of a model, its optimizers and random generators, to restore them bit for bit after a trial."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from copy import deepcopy
from typing import Any, final

import torch
from torch import Tensor, nn

from gradstep.optimizers import Optimizer
from gradstep.optimizers.wrapped import innermost
from gradstep.training.applying import list_parameters
from gradstep.training.random_state import generator_states, set_generator_states


@final
class NestedCopy:
    """A copy of nested dictionaries, lists and tensors that can be restored.

    They are restored *in place*, so that references to a tensor, a parameter group or a state dictionary stay valid.
    A tensor that occurs several times is copied once.

    Args:
        objects: the objects to copy. Numbers, text and the like are restored with their containers.

    >>> state = {"step": torch.tensor(3.0), "betas": [0.9, 0.999]}
    >>> copy = NestedCopy(state)
    >>> _ = state["step"].add_(1), state["betas"].append(7), state.pop("betas")
    >>> copy.restore()
    >>> state, copy.nbytes
    ({'step': tensor(3.), 'betas': [0.9, 0.999]}, 4)
    """

    def __init__(self, *objects: Any) -> None:
        self._undo: dict[int, Callable[[], Any]] = {}
        self._copies: list[Tensor] = []
        self._objects = objects  # keeps them alive, since an id is unique only among living objects
        for value in objects:
            self._copy(value)

    @property
    def nbytes(self) -> int:
        """Bytes of the copies."""
        return sum(t.numel() * t.element_size() for t in self._copies)

    @torch.no_grad()
    def restore(self) -> None:
        """Restore everything; may be called repeatedly."""
        for undo in self._undo.values():
            undo()

    def _copy(self, value: Any) -> None:
        if id(value) in self._undo:
            return
        if isinstance(value, Tensor):
            # detach() first: clone() of a subclass of Tensor may return anything.
            copy = value.detach().clone(memory_format=torch.preserve_format)
            self._copies.append(copy)
            self._undo[id(value)] = lambda: value.detach().copy_(copy)
        elif isinstance(value, MutableMapping):
            items = dict(value)
            self._undo[id(value)] = lambda: _refill(value, items)
            for item in items.values():
                self._copy(item)
        elif isinstance(value, list):
            elements = list(value)
            self._undo[id(value)] = lambda: value.__setitem__(slice(None), elements)
            for element in elements:
                self._copy(element)
        elif isinstance(value, tuple):
            for element in value:
                self._copy(element)


def _refill(mapping: MutableMapping[Any, Any], items: dict[Any, Any]) -> None:
    mapping.clear()
    mapping.update(items)


@final
class Snapshot:
    """A copy of a model, its optimizers and the random generators of torch, NumPy and Python, to restore later.

    It covers the model's parameters, buffers (also those that a forward pass replaces), gradients, and the flags
    ``requires_grad`` and ``training``, and the optimizers' parameter groups and state. Plain Python attributes of
    either are not restored.

    It holds one copy of the weights, the buffers and the optimizers' state. Gradients are None until :meth:`close`.

    Args:
        model: a module.
        optimizers: instances of ``torch.optim.Optimizer``, with parameters of the model or others.
    """

    def __init__(self, model: nn.Module, *optimizers: torch.optim.Optimizer) -> None:
        params = list(dict.fromkeys([*model.parameters(), *list_parameters(optimizers)]))
        modules = list(model.modules())
        self._flags = [(p, p.requires_grad) for p in params], [(m, m.training) for m in modules]
        inner = [innermost(optimizer) for optimizer in optimizers]
        self._optimizers = [
            _OptimizerCopy(one) if isinstance(one, Optimizer) else NestedCopy(one.state) for one in inner
        ]
        # Of a module's buffers, only _buffers lists those that are None.
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
        """Restore everything but the gradients; may be called repeatedly."""
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
        """Restore everything, including the gradients."""
        self.restore()
        for p, gradient in self._gradients:
            p.grad = gradient


@final
class _OptimizerCopy:
    """A copy of a gradstep optimizer's state, taken through ``state_dict``.

    After a read of ``state``, the optimizer would check it again in each step (see :class:`gradstep.Optimizer`).
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        self._saved: dict[str, Any] = deepcopy(optimizer.state_dict())
        self._last_step = optimizer.last_step

    @property
    def nbytes(self) -> int:
        return _count_bytes(self._saved["state"])

    def restore(self) -> None:
        groups = self._optimizer.param_groups
        self._optimizer.load_state_dict(self._saved)
        self._optimizer.param_groups = groups  # the same dictionaries as before; Snapshot restores their contents
        self._optimizer.last_step = self._last_step


def _count_bytes(value: Any) -> int:
    """Return the bytes of the tensors in nested dictionaries."""
    if isinstance(value, dict):
        return sum(map(_count_bytes, value.values()))
    return value.nbytes if isinstance(value, Tensor) else 0

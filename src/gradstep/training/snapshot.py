"""Put everything back after a trial: model, optimizers, random generators, and the position in the data."""

from collections.abc import Callable, Generator, Iterable, Iterator, MutableMapping
from copy import deepcopy
from typing import Any, Protocol, TypeAlias, final, runtime_checkable

import torch
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SubsetRandomSampler, WeightedRandomSampler

from gradstep.optimizers import Optimizer
from gradstep.optimizers.wrapped import innermost
from gradstep.training.applying import list_all_parameters
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
        """Copy a value with all that it contains, once for each object, and note how to put it back."""
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
    """

    def __init__(self, model: nn.Module, *optimizers: torch.optim.Optimizer) -> None:
        params = list(dict.fromkeys([*model.parameters(), *list_all_parameters(optimizers)]))
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


Data: TypeAlias = Iterable[Any] | Callable[[int], Iterable[Any]]
"""Batches: an object that can be iterated repeatedly, or a function that makes batches from a seed."""


@runtime_checkable
class StatefulData(Protocol):
    """Data that can save and restore its position, as torchdata's ``StatefulDataLoader`` does."""

    def state_dict(self) -> dict[str, Any]:
        """Return the position."""

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        """Return to a position."""


@final
class Replay:
    """Endless batches that can be restarted any number of times; the source's position is restored afterwards.

    Args:
        data: one of these.

            - a function that makes batches from a seed, which decides their order;
            - a ``DataLoader``: a ``generator`` of it or of its sampler is seeded, and restored afterwards;
            - data with ``state_dict()`` and ``load_state_dict()``, which restore its position;
            - another object that returns a *new* iterator each time, such as a list.

    Raises:
        TypeError: an iterator that only goes forward, or an object without batches.
        ValueError: a ``DataLoader`` with persistent workers, whose random generators cannot be restored.
    """

    def __init__(self, data: Data) -> None:
        source: Any = data  # users may pass any type
        self._make_batches = None if isinstance(source, Iterable) else source
        if self._make_batches is not None and not callable(self._make_batches):
            raise TypeError(f"data must be batches, or a function that makes them from a seed, not {source!r}")
        if isinstance(source, Iterator) and not isinstance(source, StatefulData):
            raise TypeError(
                "data is an iterator, which cannot be put back to where it was: give what it iterates over (the "
                "DataLoader or the list), or a function that makes batches from a seed (lambda seed: ...)"
            )
        if isinstance(source, DataLoader) and source.persistent_workers:
            raise ValueError(
                "a DataLoader with persistent workers cannot be put back as it was, since its workers live on: give "
                "a function that makes another one (lambda seed: DataLoader(...))"
            )
        self._source = source
        generators = _generators(source) if isinstance(source, DataLoader) else []
        self._generators = [(g, g.get_state()) for g in generators]
        self._position = deepcopy(source.state_dict()) if isinstance(source, StatefulData) else None

    def batches(self, seed: int) -> Generator[Any, None, None]:
        """Yield batches without end; the seed decides their order if the source allows it.

        Raises:
            ValueError: the data has no batch.
        """
        for generator, _ in self._generators:
            generator.manual_seed(seed)
        data: Any = self._source if self._make_batches is None else self._make_batches(seed)
        while True:
            empty = True
            for batch in data:
                empty = False
                yield batch
            if empty:
                raise ValueError("data has no batch to begin with, or an iterator ended and cannot begin again")

    def restore(self) -> None:
        """Restore the position and the generators of the source."""
        for generator, state in self._generators:
            generator.set_state(state)
        if self._position is not None:
            self._source.load_state_dict(deepcopy(self._position))


def _generators(loader: DataLoader[Any]) -> list[torch.Generator]:
    """Return the generators that a loader uses, without torch's global one."""
    samplers: list[Any] = [loader.sampler, loader.batch_sampler]
    samplers += [s.sampler for s in samplers if isinstance(s, BatchSampler)]
    own = [s.generator for s in samplers if isinstance(s, (RandomSampler, SubsetRandomSampler, WeightedRandomSampler))]
    return [g for g in dict.fromkeys([loader.generator, *own]) if g is not None]

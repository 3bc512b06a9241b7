"""Iterate over data as often as needed, then restore its position."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from copy import deepcopy
from typing import Any, Protocol, TypeAlias, final, runtime_checkable

import torch
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SubsetRandomSampler, WeightedRandomSampler

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

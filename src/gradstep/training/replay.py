"""Read batches for a trial again and again, and leave their source where it was."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from copy import deepcopy
from typing import Any, Protocol, TypeAlias, final, runtime_checkable

import torch
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SubsetRandomSampler, WeightedRandomSampler

Data: TypeAlias = Iterable[Any] | Callable[[int], Iterable[Any]]
"""Batches: something that can be iterated again and again, or a function that makes batches from a seed."""


@runtime_checkable
class Placed(Protocol):
    """Data that know their place, as torchdata's ``StatefulDataLoader`` does."""

    def state_dict(self) -> dict[str, Any]:
        """The place."""

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        """Go there."""


@final
class Replay:
    """Endless batches that can start again; afterwards the source is where it was.

    Args:
        data: one of these.

            - a function of a seed that makes batches: each seed its own order;
            - a ``DataLoader``: if it or its sampler has a ``generator``, that is started from the seed, and put back;
            - data with ``state_dict()`` and ``load_state_dict()``: put back by these;
            - anything else that gives a *new* iterator each time, such as a list.

    Raises:
        TypeError: an iterator that only goes forward, or something without batches.
        ValueError: a ``DataLoader`` with persistent workers, whose random numbers nobody can put back.
    """

    def __init__(self, data: Data) -> None:
        source: Any = data  # anything may come
        self._made = None if isinstance(source, Iterable) else source
        if self._made is not None and not callable(self._made):
            raise TypeError(f"data must be batches, or a function that makes them from a seed, not {source!r}")
        if isinstance(source, Iterator) and not isinstance(source, Placed):
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
        self._place = deepcopy(source.state_dict()) if isinstance(source, Placed) else None

    def batches(self, seed: int) -> Generator[Any, None, None]:
        """Batches without end, in the order of this seed where the source has one.

        Raises:
            ValueError: there is no batch.
        """
        for generator, _ in self._generators:
            generator.manual_seed(seed)
        data: Any = self._source if self._made is None else self._made(seed)
        while True:
            empty = True
            for batch in data:
                empty = False
                yield batch
            if empty:
                raise ValueError("data has no batch to begin with, or an iterator ended and cannot begin again")

    def restore(self) -> None:
        """Put the source back to where it was."""
        for generator, state in self._generators:
            generator.set_state(state)
        if self._place is not None:
            self._source.load_state_dict(deepcopy(self._place))


def _generators(loader: DataLoader[Any]) -> list[torch.Generator]:
    """The generators that a loader draws from, other than torch's global one."""
    samplers: list[Any] = [loader.sampler, loader.batch_sampler]
    samplers += [s.sampler for s in samplers if isinstance(s, BatchSampler)]
    own = [s.generator for s in samplers if isinstance(s, (RandomSampler, SubsetRandomSampler, WeightedRandomSampler))]
    return [g for g in dict.fromkeys([loader.generator, *own]) if g is not None]

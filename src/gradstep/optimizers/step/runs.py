"""A batch of distributed parameters, divided into runs: elements that are neighbours in the whole parameter too.

Noise is drawn from an element's number in the whole parameter, and blocks are cut there. So each run is a row of the
table of its own, with a key of noise moved to its first element.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, final

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from gradstep.engines.base import KEY, LENGTH, Batch, StepBatch
from gradstep.engines.statistics import Int64s
from gradstep.optimizers.memory import array_of
from gradstep.optimizers.sharded import ShardedParameter, find_runs
from gradstep.storage.elements import move_keys
from gradstep.storage.policy import UpdateSpec


@final
class Runs:
    """The runs of the local tensors of several parameters.

    Args:
        shards: the parameters.
        spec: their update.

    Attributes:
        owner: (runs,) the position of each run's parameter, ascending; a parameter without elements has an empty run.
        local: (runs,) the number of its first element in the local tensor.
        whole: (runs,) the number of its first element in the whole parameter.
        lengths: (runs,) its number of elements.
        offsets: (runs, fields) bytes from the first element of each field of the parameter to that of the run.
    """

    def __init__(self, shards: Sequence[ShardedParameter], spec: UpdateSpec) -> None:
        runs = [find_runs(shard.parameter) for shard in shards]
        self.owner = np.repeat(np.arange(len(runs)), list(map(len, runs)))
        self.whole, self.lengths = np.concatenate(runs).T.copy()
        self.local = np.concatenate([np.cumsum(lengths) - lengths for _, lengths in (run.T for run in runs)])
        sizes = [(field.per, field.element.itemsize) for field in spec.fields]
        self.offsets = np.column_stack([self.local // per * itemsize for per, itemsize in sizes])

    @cached_property
    def lengths_key(self) -> bytes:
        """The lengths as bytes."""
        return bytes(self.lengths.tobytes())


@final
class RunsBatch(Batch):
    """The runs of a batch.

    Args:
        batch: the batch, of local tensors, with the keys of whole parameters.
        runs: of all parameters of its part.
        active: (n,) the positions of its parameters among these; None for all.
    """

    def __init__(self, batch: Batch, runs: Runs, active: Int64s | None) -> None:
        self._batch, self._runs = batch, runs
        self.spec, self.coefficients, self.threads = batch.spec, batch.coefficients, batch.threads
        if active is None:
            self._rows: Any = slice(None)
            self._owner = runs.owner
            self.lengths_key = runs.lengths_key
        else:
            self._rows = np.flatnonzero(np.isin(runs.owner, active))
            self._owner = np.searchsorted(active, runs.owner[self._rows])
        self.table = batch.table[self._owner]
        self.table[:, :LENGTH] += runs.offsets[self._rows]
        self.table[:, LENGTH] = runs.lengths[self._rows]
        self.table[:, KEY] = move_keys(self.table[:, KEY], runs.whole[self._rows])
        if batch.owners is not None:
            self.owners = batch.owners[self._owner]
            self.owners_key = self.owners.tobytes()

    @property
    def columns(self) -> Sequence[Sequence[Tensor]]:
        local, lengths = self._runs.local[self._rows].tolist(), self.lengths.tolist()
        return [
            [
                column[k].view(-1)[first // field.per : -(-(first + length) // field.per)]
                for k, first, length in zip(self._owner.tolist(), local, lengths, strict=True)
            ]
            for column, field in zip(self._batch.columns, self.spec.fields, strict=True)
        ]

    def arrays(self) -> Sequence[Sequence[NDArray[Any]]]:
        return [[array_of(t) for t in column] for column in self.columns]


def update_runs(batch: StepBatch, runs: Runs, active: Int64s | None) -> None:
    """Update the parameters of a batch by their runs; the arguments are those of :class:`RunsBatch`."""
    divided = RunsBatch(batch, runs, active)
    batch.engine.update(divided)
    if batch.owners is not None:
        batch.tally = divided.tally

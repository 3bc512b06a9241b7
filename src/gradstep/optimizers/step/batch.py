"""Parameters that one engine updates at once, with the addresses of their memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any, cast, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gradstep.engines.base import LENGTH, ROW, Engine, Int64s, Pieces, UpdateSpec
from gradstep.engines.statistics import DETAILS, SUMS, Detail, RowLabels, Tally
from gradstep.engines.step import StepBatch
from gradstep.optimizers.sharded import Place, ShardedParameter, local_tensor
from gradstep.optimizers.step.memory import PLAIN, Layouts, array_of, conform_gradient, is_freed
from gradstep.optimizers.step.memory_native import NativeLayouts, is_native
from gradstep.optimizers.step.runs import Runs, RunsBatch


@final
@dataclass(frozen=True)
class Part:
    """Parameters that one engine updates with one spec.

    Attributes:
        engine: the engine that updates them.
        spec: the computation and the storage.
        members: (n,) the position of each parameter in the table.
        groups: (n,) the number of each parameter's group.
        params, names: the parameters, and their names.
        fields: the state's key of every array of state: arrays that rounding keeps, then the slots'.
        slots: for each field, the tensors of all parameters.
        dtype: the gradients' type.
        plain: whether the parameters are plain tensors, whose memory layout can be compared with the last step's.
        shards: the distributed parameters of which ``params`` are the local tensors; empty for other parameters.
    """

    engine: Engine
    spec: UpdateSpec
    members: Int64s
    groups: Int64s
    params: list[Tensor]
    names: list[str]
    fields: tuple[str, ...]
    slots: list[list[Tensor]]
    dtype: torch.dtype
    plain: bool
    shards: Sequence[ShardedParameter] = ()

    def __post_init__(self) -> None:
        """Read the layouts now; later layouts are compared with them."""
        self.table  # noqa: B018  # fills the caches
        self.runs  # noqa: B018

    @cached_property
    def layouts(self) -> Sequence[Layouts | NativeLayouts]:
        """The layouts of the parameters, then of each field; empty for tensor subclasses."""
        if not self.plain:
            return []
        kind = NativeLayouts if self.engine.by_address and is_native() else Layouts
        return [kind.of(column) for column in (self.params, *self.slots)]

    @cached_property
    def _storages(self) -> list[torch.UntypedStorage]:
        """The state's storages, held so that its addresses stay valid even if a slot is given other memory."""
        return [t.untyped_storage() for t in chain(*self.slots)] if self.plain else []

    @cached_property
    def only_group(self) -> int | None:
        """The number of the group of all members; None if there are several."""
        return int(self.groups[0]) if (self.groups == self.groups[0]).all() else None

    @cached_property
    def table(self) -> Int64s:
        """(n, fields + 3) as engines take it; each step writes the gradients' addresses into the first column."""
        self._storages  # noqa: B018
        zeros = np.zeros(len(self.params), np.int64)
        addresses = [layouts.pointers for layouts in self.layouts] or [zeros] * (1 + len(self.slots))
        return np.column_stack((zeros, *addresses, [p.numel() for p in self.params], zeros, zeros))

    @cached_property
    def labels(self) -> dict[Detail, RowLabels]:
        """Row labels of statistics, for parameters and for groups."""
        whole = np.array([shard.parameter.numel() for shard in self.shards], dtype=np.int64)
        columns = (self.names, self.members, self.groups, whole if self.shards else self.table[:, LENGTH].copy())
        return {detail: RowLabels.of(detail, *columns) for detail in DETAILS}

    @cached_property
    def lengths_key(self) -> bytes:
        """The lengths, as in :attr:`gradstep.engines.base.Batch.lengths_key`."""
        return self.table[:, LENGTH].tobytes()

    @cached_property
    def _kinds(self) -> list[tuple[Any, ...]]:
        return list(map(_kind, self.params))

    @cached_property
    def versioned(self) -> list[Tensor]:
        """The parameters that have a version counter; those made in inference mode have none."""
        return [p for p in (*self.params, *(shard.parameter for shard in self.shards)) if not p.is_inference()]

    @cached_property
    def runs(self) -> Runs | None:
        """The runs of distributed parameters whose update depends on the numbers of elements; else None."""
        return Runs(self.shards, self.spec) if self.shards and self.spec.noise else None

    @cached_property
    def place(self) -> Place | None:
        """Where the elements of the distributed parameters are, which is the same for all of them."""
        return self.shards[0].place if self.shards else None

    @property
    def has_memory(self) -> bool:
        """Whether all state is in plain tensors whose elements have addresses."""
        missing = (self.table[:, 1:LENGTH] == 0) & (self.table[:, LENGTH:ROW] != 0)
        return PLAIN.issuperset(map(type, chain(*self.slots))) and not missing.any()

    def params_moved(self) -> bool:
        """Return whether a parameter's memory, type, shape or device has changed since this part was made."""
        if self.plain:
            params = [local_tensor(shard.parameter) for shard in self.shards] or self.params
            return not self.layouts[0].still_hold(params)
        return list(map(_kind, self.params)) != self._kinds or any(map(is_freed, self.params))

    def slots_moved(self) -> bool:
        """Return whether the memory of a slot has changed since this part was made."""
        return not all(layouts.still_hold(slot) for layouts, slot in zip(self.layouts[1:], self.slots))

    def batch(self) -> TorchBatch | None:
        """Return the parameters that have a gradient now; None if a gradient has another type than before.

        Raises:
            RuntimeError: a gradient does not fit its parameter.
        """
        present = [shard.gradient() for shard in self.shards] if self.shards else [p.grad for p in self.params]
        gradients = cast("list[Tensor]", present)  # a None among them differs from any tensor
        pointers = self.layouts[0].pointers_of_likes(gradients, self.dtype) if self.plain else None
        owners: Sequence[int] = range(len(present))
        active: list[int] | None = None
        if pointers is None:  # a gradient is missing, or is laid out unlike its parameter
            owners = [k for k, g in enumerate(present) if g is not None]
            if len(owners) < len(present):
                active, gradients = owners, [gradients[k] for k in owners]
                if self.plain:
                    pointers = self.layouts[0].select(active).pointers_of_likes(gradients, self.dtype)
        if pointers is None:
            gradients = [
                conform_gradient(self.params[k], g, self.names[k]) for k, g in zip(owners, gradients, strict=True)
            ]
            if any(g.dtype != self.dtype for g in gradients):
                return None
            pointers = [g.data_ptr() for g in gradients] if self.plain else [0] * len(gradients)
        batch = TorchBatch(self, gradients, None if active is None else np.array(active, dtype=np.int64))
        batch.table[:, 0] = pointers
        return batch


def _kind(p: Tensor) -> tuple[Any, ...]:
    return type(p), p.shape, p.dtype, p.device


@final
class TorchBatch(StepBatch):
    """Parameters of one part that have a gradient in this step.

    Args:
        part: the part that the parameters belong to.
        gradients: their gradients, in the parameters' memory layouts; held, so that they are not freed meanwhile.
        active: (n,) the parameters' positions in the part; None for all.
    """

    def __init__(self, part: Part, gradients: list[Tensor], active: Int64s | None) -> None:
        self.part, self.spec, self.engine, self.group = part, part.spec, part.engine, part.only_group
        self.gradients, self.active = gradients, active
        self.members, self.table = part.members, part.table
        if active is None:
            self.lengths_key = part.lengths_key
        else:
            self.members, self.table = part.members[active], part.table[active]
        self.threads = torch.get_num_threads()

    def _select_active(self, column: Sequence[Any]) -> Sequence[Any]:
        return column if self.active is None or not column else [column[i] for i in self.active]

    @property
    def params(self) -> Sequence[Tensor]:
        """The parameters."""
        return self._select_active(self.part.params)

    @property
    def names(self) -> Sequence[str]:
        return self._select_active(self.part.names)

    def watch(self, detail: Detail) -> None:
        if self.active is None:
            self.labels = self.part.labels[detail]
        else:
            groups = self.part.groups[self.active]
            elements = self.part.labels["parameters"].elements[self.active]
            self.labels = RowLabels.of(detail, self.names, self.members, groups, elements)
        self.owners, self.owners_key = self.labels.owners, self.labels.key

    @property
    def columns(self) -> Sequence[Sequence[Tensor]]:
        return [self.gradients, self.params, *map(self._select_active, self.part.slots)]

    def arrays(self) -> Sequence[Sequence[NDArray[Any]]]:
        return [[array_of(t) for t in column] for column in self.columns]

    def find_nonfinite(self) -> Iterator[int]:
        return (k for k, g in enumerate(self.gradients) if not bool(g.isfinite().all()))

    def largest_gradient(self) -> float:
        return max((float(g.abs().max()) for g in self.gradients if g.numel()), default=0.0)

    def sum_squares(self, divisor: float) -> float:
        return sum(float((g / divisor).abs().square().sum()) for g in self.gradients)

    def run(self, walk: Iterable[Pieces | None]) -> None:
        """Update the parameters, piece by piece.

        Args:
            walk: in turn, the pieces whose state is in memory together; None stands for everything.
        """
        tallies = []
        for self.pieces in walk:
            runs = self.part.runs
            batch = self if runs is None else RunsBatch(self, runs, self.active)
            self.part.engine.update(batch)
            if self.owners is not None:
                self.tally = batch.tally
                tallies.append(self.tally)
        # As after any write by torch: a backward pass that needs the overwritten values then raises an error.
        versioned = self.part.versioned
        if self.active is not None:
            shards = (shard.parameter for shard in self._select_active(self.part.shards))
            versioned = [p for p in (*self.params, *shards) if not p.is_inference()]
        torch.autograd.graph.increment_version(versioned)
        if len(tallies) > 1:
            every = np.stack([tally.table for tally in tallies])
            least, most = np.fmin.reduce(every[..., SUMS]), np.fmax.reduce(every[..., SUMS + 1])
            self.tally = Tally.of(np.column_stack((every[..., :SUMS].sum(0), least, most)))

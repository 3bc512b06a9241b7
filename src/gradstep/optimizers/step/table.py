"""The parameters and state of an optimizer as tables of memory addresses, which engines read.

A table is a cache: ``param_groups`` and ``state`` hold the facts. Before each step :meth:`Table.batches` compares them
with the table, which is built anew if a parameter was replaced, a state loaded, or data moved or resized. The
comparison is a few C-level maps over all parameters, about a microsecond each.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from operator import is_
from typing import TYPE_CHECKING, Any, cast, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gradstep.engines.base import LENGTH, Engine, Int64s, Ranks, StepBatch, StepTable
from gradstep.engines.statistics import DETAILS, Detail, RowLabels
from gradstep.optimizers.memory import Layouts, array_of, conform_gradient, is_freed
from gradstep.optimizers.sharded import Place, ShardedParameter, local_gradients, local_tensors
from gradstep.optimizers.state.storage import MOST_STEPS, install_entries
from gradstep.optimizers.step.memory_native import NativeLayouts, is_native
from gradstep.optimizers.step.runs import Runs, update_runs
from gradstep.optimizers.step.sums import update_with_sums
from gradstep.rules import Rule
from gradstep.storage.policy import UpdateSpec

if TYPE_CHECKING:  # importing it takes a fifth of gradstep's import time, and only paged state needs it
    from gradstep.optimizers.paged.placement import Placement


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
        """The place of the parameters' elements; None if this process has them all."""
        return self.shards[0].place if self.shards and self.shards[0].place.dims else None

    def params_moved(self) -> bool:
        """Return whether a parameter's memory, type, shape or device has changed since this part was made."""
        if self.plain:
            params = local_tensors(self.shards) if self.shards else self.params
            return not self.layouts[0].still_hold(params)
        return list(map(_kind, self.params)) != self._kinds or any(map(is_freed, self.params))

    def slots_moved(self) -> bool:
        """Return whether the memory of a slot has changed since this part was made."""
        return not all(layouts.still_hold(slot) for layouts, slot in zip(self.layouts[1:], self.slots))

    def batch(self) -> TorchBatch | None:
        """Return the parameters that have a gradient now; None if this part is out of date.

        It is if a parameter has moved, or a gradient has another type than before.

        Raises:
            RuntimeError: a gradient does not fit its parameter.
        """
        present = local_gradients(self.shards) if self.shards else [p.grad for p in self.params]
        if self.params_moved():
            return None
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
            pairs = zip(owners, gradients, strict=True)
            gradients = [conform_gradient(self.params[k], g, self.names[k]) for k, g in pairs]
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

    def select_active(self, column: Sequence[Any]) -> Sequence[Any]:
        """Return the entries of a column of the part that belong to this batch."""
        return column if self.active is None or not column else [column[i] for i in self.active]

    @property
    def params(self) -> Sequence[Tensor]:
        """The parameters."""
        return self.select_active(self.part.params)

    @property
    def names(self) -> Sequence[str]:
        return self.select_active(self.part.names)

    def watch(self, detail: Detail) -> None:
        if self.active is None:
            self.labels = self.part.labels[detail]
        else:
            groups = self.part.groups[self.active]
            elements = self.part.labels["parameters"].elements[self.active]
            self.labels = RowLabels.of(detail, self.names, self.members, groups, elements)
        self.owners, self.owners_key = self.labels.owners, self.labels.key

    @property
    def versioned(self) -> list[Tensor]:
        """The parameters that have a version counter; those made in inference mode have none."""
        if self.active is None:
            return self.part.versioned
        shards = (shard.parameter for shard in self.select_active(self.part.shards))
        return [p for p in (*self.params, *shards) if not p.is_inference()]

    @property
    def columns(self) -> Sequence[Sequence[Tensor]]:
        return [self.gradients, self.params, *map(self.select_active, self.part.slots)]

    def arrays(self) -> Sequence[Sequence[NDArray[Any]]]:
        return [[array_of(t) for t in column] for column in self.columns]

    def find_nonfinite(self) -> Iterator[int]:
        return (k for k, g in enumerate(self.gradients) if not bool(g.isfinite().all()))

    def largest_gradient(self) -> float:
        return max((float(g.abs().max()) for g in self.gradients if g.numel()), default=0.0)

    def sum_squares(self, divisor: float) -> float:
        return sum(float((g / divisor).abs().square().sum()) for g in self.gradients)


@final
class Table(StepTable):
    """The parameters that have state, in the order of ``param_groups``; made by ``build_table``.

    Args:
        parts: the parameters that have state, by engine and spec.
        flat: the parameters of all groups.
        sizes: the number of parameters of each group.
        rules: one per group, with the settings of the first step.
        stateful: positions in ``flat`` of the parameters that have state.
        entries: the state of each of these.
        starts: names of the numbers kept once per parameter, with their values before the first step.
        state: the optimizer's, changed by :meth:`install`.
        paged: the placement of paged state; None for state in memory.
        ranks: the processes that have the other parameters or elements; None if this process has them all.
        streams: (parameters,) the stream of rounding noise of each parameter; None if nothing is rounded at random.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        *,
        flat: list[Tensor],
        sizes: list[int],
        rules: Sequence[Rule],
        stateful: Sequence[int],
        entries: Sequence[dict[str, Any]],
        starts: Mapping[str, float],
        state: defaultdict[Tensor, dict[str, Any]],
        paged: Placement | None,
        ranks: Ranks | None,
        streams: NDArray[np.uint64] | None,
    ) -> None:
        self.parts, self.flat, self.sizes, self.rules = parts, flat, sizes, list(rules)
        self.ranks = ranks
        self.streams = np.zeros(len(flat), dtype=np.uint64) if streams is None else streams
        self.groups = np.repeat(np.arange(len(sizes)), sizes)
        self.stateless = sorted(set(range(len(flat))) - set(stateful))
        self.scalar_names = tuple(starts)
        self._stateful, self._new_entries = stateful, entries
        self._state, self._installed, self._paged = state, False, paged
        self.numbers = np.zeros((len(flat), len(starts)), dtype=np.float32)
        if entries:
            self.numbers[stateful] = [[float(e.get(name, start)) for name, start in starts.items()] for e in entries]
        self._rows = [] if paged is None else paged.scalar_rows(flat)
        # Each number has its own storage, so that a copy of it, or a file, does not contain other parameters' numbers.
        self._cells = [torch.from_numpy(self.numbers[i, k, ...]) for i in stateful for k in range(len(starts))]
        native = any(part.engine.by_address for part in parts) and is_native()
        self._cell_layouts = (NativeLayouts if native else Layouts).of(self._cells)

    def install(self) -> None:
        if self._installed:
            return
        params = [self.flat[i] for i in self._stateful]
        install_entries(self._state, params, self._new_entries, self.scalar_names, self._cells)
        self._installed, self._new_entries = True, []
        self.entries = [self._state[p] for p in params]
        self._cells = [entry[name] for entry in self.entries for name in self.scalar_names]
        self.contents = _contents(self.entries)
        self.keys, self.values = list(self._state), list(self._state.values())

    def batches(
        self,
        rules: Sequence[Rule],
        groups: Sequence[dict[str, Any]],
        state: dict[Tensor, dict[str, Any]],
        *,
        state_seen: bool,
    ) -> list[TorchBatch] | None:
        """Return the batches of this step; None if this table is out of date and must be built anew.

        Args:
            rules, groups, state: the optimizer's present ones.
            state_seen: whether the state must be checked, because code outside the optimizer could have changed it.

        Raises:
            RuntimeError: a gradient does not fit its parameter.
        """
        flat = list(chain.from_iterable([group["params"] for group in groups]))
        if not (
            _same(flat, self.flat)
            and self.sizes == [len(g["params"]) for g in groups]
            and self._same_structure(rules)
            and (not self._installed or not state_seen or self._same_state(state))
            and all(flat[i].grad is None for i in self.stateless)
        ):
            return None
        batches = []
        for part in self.parts:
            batch = part.batch()
            if batch is None:
                return None
            if len(batch.table):
                batches.append(batch)
        return batches

    def _same_state(self, state: dict[Tensor, dict[str, Any]]) -> bool:
        return (
            _same(list(state), self.keys)
            and _same(list(state.values()), self.values)
            and _same(_contents(self.entries), self.contents)
            and not any(part.slots_moved() for part in self.parts)
            and self._scalars_hold()
        )

    def _scalars_hold(self) -> bool:
        """Return whether step counts and scalars are still in the table's memory, and have valid values."""
        steps = self.numbers[:, 0]
        return (
            self._cell_layouts.still_hold(self._cells)
            and bool(((steps >= 0) & (steps <= MOST_STEPS) & (steps == np.floor(steps))).all())
            and bool(np.isfinite(self.numbers).all())
        )

    def _same_structure(self, rules: Sequence[Rule]) -> bool:
        same = _same(rules, self.rules) or list(map(_structure, rules)) == list(map(_structure, self.rules))
        self.rules = list(rules)
        return same

    def open_for_update(self) -> AbstractContextManager[None]:
        return nullcontext() if self._paged is None else self._paged.open_for_update()

    def update(self, batch: TorchBatch) -> None:
        if self._paged is not None:
            self._paged.update(batch)
        elif batch.part.place is not None and not batch.spec.rule.elementwise:
            update_with_sums(batch, batch.select_active(batch.part.shards))
        elif batch.part.runs is not None:
            update_runs(batch, batch.part.runs, batch.active)
        else:
            batch.engine.update(batch)
        # As after any write by torch: a backward pass that needs the overwritten values then raises an error.
        torch.autograd.graph.increment_version(batch.versioned)

    def commit(self, batch: TorchBatch, numbers: NDArray[np.floating[Any]]) -> None:
        self.numbers[batch.members] = numbers

    def finish(self) -> None:
        if self._paged is not None:  # the numbers are kept in the page files, beside the state
            self._paged.save_scalars(self.numbers, self._rows)


def _same(objects: Sequence[Any], others: Sequence[Any]) -> bool:
    """Return whether both hold the same objects in the same order."""
    return len(objects) == len(others) and all(map(is_, objects, others))


def _contents(entries: Sequence[dict[str, Any]]) -> list[Any]:
    return list(chain.from_iterable(map(dict.values, entries)))


def _structure(rule: Rule) -> tuple[Any, ...]:
    """Return a rule's slots for vectors and for matrices, which settings may change (AMSGrad adds one)."""
    return tuple(rule.slots(ndim) for ndim in (1, 2))

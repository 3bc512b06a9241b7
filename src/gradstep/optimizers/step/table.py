"""The parameters and state of an optimizer as tables of memory addresses, which engines read.

A table is a cache: ``param_groups`` and ``state`` hold the facts. Before each step :meth:`Table.batches` compares them
with it, in a few C-level maps; if a parameter was replaced, a state loaded, or data moved or resized, it is built anew.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import chain
from operator import is_
from typing import TYPE_CHECKING, Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gradstep.engines.base import LENGTH, ROW, Ranks, StepTable
from gradstep.engines.statistics import StepReport
from gradstep.optimizers.memory import PLAIN, Layouts, extent, find_overlaps
from gradstep.optimizers.state.storage import MOST_STEPS, install_entries
from gradstep.optimizers.step.part import NativeLayouts, Part, TorchBatch, is_native
from gradstep.optimizers.step.runs import update_runs
from gradstep.optimizers.step.sums import update_with_sums
from gradstep.rules import Rule

if TYPE_CHECKING:  # importing it takes a fifth of gradstep's import time, and only paged state needs it
    from gradstep.optimizers.paged.placement import Placement


@final
class Table(StepTable):
    """The parameters that have state, in the order of ``param_groups``; made by ``build_batches``.

    Args:
        parts: the parameters that have state, by engine and spec.
        flat: the parameters of all groups.
        sizes: the number of parameters of each group.
        rules: one per group, with the settings of the first step.
        stateful: positions in ``flat`` of the parameters that have state.
        entries: the state of each of these.
        initial_numbers: names of the numbers kept once per parameter, of all rules, with their values before the first
            step.
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
        initial_numbers: Mapping[str, float],
        state: defaultdict[Tensor, dict[str, Any]],
        paged: Placement | None,
        ranks: Ranks | None,
        streams: NDArray[np.uint64] | None,
    ) -> None:
        self.parts, self.flat, self.sizes, self.rules, self.ranks = parts, flat, sizes, list(rules), ranks
        self.streams = np.zeros(len(flat), dtype=np.uint64) if streams is None else streams
        self.groups = np.repeat(np.arange(len(sizes)), sizes)
        self.stateless = sorted(set(range(len(flat))) - set(stateful))
        self.scalar_names = tuple(initial_numbers)
        self._stateful, self._new_entries = stateful, entries
        self._state, self._installed, self._paged = state, False, paged
        self.numbers = np.zeros((len(flat), len(initial_numbers)), dtype=np.float32)
        self._own_names = [("step", *rules[group].scalars) for group in self.groups[stateful]]
        owners = zip(stateful, entries, self._own_names, strict=True)
        own = {
            (i, self.scalar_names.index(name)): entry.get(name, initial_numbers[name])
            for i, entry, names in owners
            for name in names
        }
        for place, value in own.items():
            self.numbers[place] = float(value)
        self._rows = [] if paged is None else paged.scalar_rows(flat)
        # Each number has its own storage, so that a copy of it, or a file, does not contain other parameters' numbers.
        self._cells = [torch.from_numpy(self.numbers[i, k, ...]) for i, k in own]
        native = any(part.engine.by_address for part in parts) and is_native()
        self._cell_layouts = (NativeLayouts if native else Layouts).of(self._cells)

    def install(self) -> None:
        if self._installed:
            return
        params = [self.flat[i] for i in self._stateful]
        install_entries(self._state, params, self._new_entries, self._own_names, self._cells)
        self._installed, self._new_entries = True, []
        self.entries = [self._state[p] for p in params]
        self._cells = [entry[name] for entry, names in zip(self.entries, self._own_names) for name in names]
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
            self._cell_layouts.are_unchanged(self._cells)
            and bool(((steps >= 0) & (steps <= MOST_STEPS) & (steps == np.floor(steps))).all())
            and bool(np.isfinite(self.numbers).all())
        )

    def _same_structure(self, rules: Sequence[Rule]) -> bool:
        same = _same(rules, self.rules) or [rule.structure for rule in rules] == [rule.structure for rule in self.rules]
        self.rules = list(rules)
        return same

    def open_for_update(self) -> AbstractContextManager[None]:
        return nullcontext() if self._paged is None else self._paged.open_for_update()

    def update(self, batch: TorchBatch) -> None:
        if self._paged is not None:
            self._paged.update(batch)
        elif batch.part.place is not None and batch.spec.rule.sees != "elements":
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


def create_state(
    table: Table,
    batches: Sequence[TorchBatch],
    groups: Sequence[Mapping[str, Any]],
    state: Mapping[Tensor, Any],
) -> StepReport | None:
    """Create the state and return a report, if this first step has a learning rate of 0 and gradients of 0.

    torch's distributed checkpoints take such a step to create the state. It is no update: the first real one must be
    what it would have been without it.

    Returns:
        The report; None if this is another step, for which nothing was done.
    """
    if state or not batches or not all("lr" in group and float(group["lr"]) == 0 for group in groups):
        return None
    moves = [float(any(bool(g.any()) for g in batch.gradients)) for batch in batches]  # NaN is not 0
    if sum(moves) if table.ranks is None else table.ranks.combine(batches, moves, "sum"):
        return None
    table.install()
    return StepReport(stepped=False, reason="lr and gradients are 0: the state was created, and nothing was updated")


def has_memory(part: Part) -> bool:
    """Return whether all state of a part is in plain tensors whose elements have addresses."""
    missing = (part.table[:, 1:LENGTH] == 0) & (part.table[:, LENGTH:ROW] != 0)
    return PLAIN.issuperset(map(type, chain(*part.slots))) and not missing.any()


def check_state_apart(parts: Sequence[Part]) -> None:
    """Refuse state in which an array shares memory with another array or with a parameter.

    Only state that was loaded or changed by hand can be so.

    Raises:
        RuntimeError: naming the arrays.
    """
    arrays = [
        (f"{key} of {part.names[k]}", t)
        for part in parts
        for key, slot in zip(part.fields, part.slots, strict=True)
        for k, t in enumerate(slot)
        if t.numel()
    ]
    count = len(arrays)
    arrays += [(name, p) for part in parts for name, p in zip(part.names, part.params, strict=True) if p.numel()]
    starts = np.array([t.data_ptr() for _, t in arrays], dtype=np.int64)
    shared = find_overlaps(starts, starts + np.array([extent(t) for _, t in arrays], dtype=np.int64))
    if shared and shared[0] < count:  # parameters, which come last, may share memory with each other
        named = ", ".join(arrays[k][0] for k in shared[:4])
        raise RuntimeError(f"arrays of state share memory: {named}; give each its own by clone()")

"""The parameters and state of an optimizer as tables of memory addresses, which engines read.

A table is a cache: ``param_groups`` and ``state`` hold the facts. Before each step :meth:`Table.batches` compares them
with the table, which is built anew if a parameter was replaced, a state loaded, or data moved or resized. The
comparison is a few C-level maps over all parameters, about a microsecond each.
"""

from __future__ import annotations

import gc
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import chain
from operator import is_
from typing import TYPE_CHECKING, Any, TypeGuard, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gradstep.engines.base import Ranks
from gradstep.engines.step import StepTable
from gradstep.optimizers.state.check import MOST_STEPS
from gradstep.optimizers.step.batch import Part, TorchBatch
from gradstep.optimizers.step.memory import Layouts
from gradstep.optimizers.step.memory_native import NativeLayouts, is_native
from gradstep.rules import Rule

if TYPE_CHECKING:  # importing it takes a fifth of gradstep's import time, and only paged state needs it
    from gradstep.optimizers.paged.placement import Placement


@contextmanager
def pause_garbage_collection() -> Iterator[None]:
    """Switch Python's garbage collector off, and on again afterwards if it was on.

    A table makes many objects that stay. The collector would look through them again and again, which takes a third of
    the time to make them.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


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
        seed: the seed of the rounding noise.
        ranks: the processes that have the other elements of distributed parameters; None if this process has them all.
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
        seed: int,
        ranks: Ranks | None,
    ) -> None:
        self.parts, self.flat, self.sizes, self.rules, self.seed = parts, flat, sizes, list(rules), seed
        self.ranks = ranks
        self.groups = np.repeat(np.arange(len(sizes)), sizes)
        self.stateless = sorted(set(range(len(flat))) - set(stateful))
        self.scalar_names = tuple(starts)
        self._stateful, self._new_entries = stateful, entries
        self._state, self._installed, self._paged = state, False, paged
        self.numbers = np.zeros((len(flat), len(starts)), dtype=np.float32)
        if entries:
            rows = [[float(entry.get(name, start)) for name, start in starts.items()] for entry in entries]
            self.numbers[stateful] = rows
        self._rows = [] if paged is None else paged.scalar_rows(flat)
        # Each number has its own storage, so that a copy of it, or a file, does not contain other parameters' numbers.
        self._cells = [torch.from_numpy(self.numbers[i, k, ...]) for i in stateful for k in range(len(starts))]
        native = any(part.engine.by_address for part in parts) and is_native()
        self._cell_layouts = (NativeLayouts if native else Layouts).of(self._cells)

    def install(self) -> None:
        if not self._installed:
            self._installed = True
            with pause_garbage_collection():
                self._install()

    def _install(self) -> None:
        """Put the new entries into the optimizer's state, before the first step that changes them."""
        state, cells, moved = self._state, iter(self._cells), set[int]()
        for i, new_entry in zip(self._stateful, self._new_entries, strict=True):
            entry = state.setdefault(self.flat[i], {})
            entry.update(new_entry)
            for name in self.scalar_names:
                cell, old = next(cells), entry.get(name)
                if _is_number(old) and id(old) not in moved:  # a state dict, say, may hold the same tensor
                    moved.add(id(old))
                    old.data = cell
                else:
                    entry[name] = cell
        self._new_entries = []
        self.entries = [state[self.flat[i]] for i in self._stateful]
        self._cells = [entry[name] for entry in self.entries for name in self.scalar_names]
        self.contents = _contents(self.entries)
        self.keys, self.values = list(state), list(state.values())

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
        if any(part.params_moved() for part in self.parts):
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
        if _same(rules, self.rules):
            return True
        same = list(map(_structure, rules)) == list(map(_structure, self.rules))
        self.rules = list(rules)
        return same

    def open_for_update(self) -> AbstractContextManager[None]:
        return nullcontext() if self._paged is None else self._paged.open_for_update()

    def update(self, batch: TorchBatch) -> None:
        if self._paged is None:
            batch.run([None])
        else:
            self._paged.update(batch)

    def commit(self, batch: TorchBatch, numbers: NDArray[np.floating[Any]]) -> None:
        self.numbers[batch.members] = numbers

    def finish(self) -> None:
        if self._paged is not None:  # the numbers are kept in the page files, beside the state
            self._paged.save_scalars(self.numbers, self._rows)


def _is_number(value: Any) -> TypeGuard[Tensor]:
    """Return whether it is a float32 scalar tensor whose ``data`` can be set to a cell of the table."""
    return (
        type(value) is Tensor
        and value.dtype is torch.float32
        and value.is_cpu
        and value.layout is torch.strided
        and not (value.dim() or value.requires_grad or value.is_inference())
    )


def _same(objects: Sequence[Any], others: Sequence[Any]) -> bool:
    """Return whether both hold the same objects in the same order."""
    return len(objects) == len(others) and all(map(is_, objects, others))


def _contents(entries: Sequence[dict[str, Any]]) -> list[Any]:
    return list(chain.from_iterable(map(dict.values, entries)))


def _structure(rule: Rule) -> tuple[Any, ...]:
    return tuple(rule.slots(ndim) for ndim in (1, 2))

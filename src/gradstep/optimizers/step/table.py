"""The parameters and state of an optimizer as tables of addresses, which engines use at once.

Everything here is derived from ``param_groups`` and ``state``, which stay the only truth: before each step
:meth:`Table.batches` compares, and a table that is out of date (a parameter was replaced, a state loaded, data moved or
resized) is built anew. The comparison is a few C-level maps over all parameters, about a microsecond each.
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

from gradstep.engines.step import StepTable
from gradstep.optimizers.state.check import MOST_STEPS
from gradstep.optimizers.step.batch import Part, TorchBatch
from gradstep.optimizers.step.memory import Layouts
from gradstep.optimizers.step.memory_native import NativeLayouts, is_native
from gradstep.rules import Rule

if TYPE_CHECKING:  # a fifth of the time to import gradstep, for those who page state
    from gradstep.optimizers.paged.placement import Placement


@contextmanager
def pause_garbage_collection() -> Iterator[None]:
    """Switch Python's garbage collector off, and on again if it was on.

    It would look time and again through many objects that are made here and stay: a third of the time that they take.
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
        flat: the parameters of all groups; ``sizes`` says how many each group has.
        rules: one per group, with the settings of the first step.
        stateful: positions in ``flat`` of the parameters that have state.
        entries: state of each of these.
        starts: names of the numbers kept once per parameter, with their values before the first step.
        state: the optimizer's, changed by :meth:`install`.
        paged: where state is kept outside of memory.
        seed: of the noise of rounding.
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
    ) -> None:
        self.parts, self.flat, self.sizes, self.rules, self.seed = parts, flat, sizes, list(rules), seed
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
        # Each number has a storage of its own, so that a copy or a file of it holds no other parameter's.
        self._cells = [torch.from_numpy(self.numbers[i, k, ...]) for i in stateful for k in range(len(starts))]
        native = any(part.engine.by_address for part in parts) and is_native()
        self._cell_layouts = (NativeLayouts if native else Layouts).of(self._cells)

    def install(self) -> None:
        if not self._installed:
            self._installed = True
            with pause_garbage_collection():
                self._install()

    def _install(self) -> None:
        """Put the state into the optimizer's, before the first step that changes it."""
        state, cells, moved = self._state, iter(self._cells), set[int]()
        for i, entry in zip(self._stateful, self._new_entries, strict=True):
            held = state.setdefault(self.flat[i], {})
            held.update(entry)
            for name in self.scalar_names:
                cell, old = next(cells), held.get(name)
                if _is_number(old) and id(old) not in moved:  # somebody else may hold it: a state dict, say
                    moved.add(id(old))
                    old.data = cell
                else:
                    held[name] = cell
        self._new_entries = []
        self.entries = [state[self.flat[i]] for i in self._stateful]
        self._cells = [entry[name] for entry in self.entries for name in self.scalar_names]
        self.contents = _contents(self.entries)
        self.keys, self.values = list(state), list(state.values())

    def batches(
        self,
        rules: Sequence[Rule],
        groups: Sequence[dict[str, Any]],
        flat: list[Tensor],
        state: dict[Tensor, dict[str, Any]],
        *,
        state_seen: bool,
    ) -> list[TorchBatch] | None:
        """Return the batches of this step; None if this table is out of date and must be built anew.

        Args:
            rules, groups, flat, state: as they are now; ``flat`` are the parameters of all groups.
            state_seen: whether anybody but the optimizer has had the state in hand; what nobody has seen is as it was.

        Raises:
            RuntimeError: a gradient that does not fit.
        """
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
        """Return whether the numbers kept once per parameter are as the table made them, and can be such numbers."""
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
    """Whether it is a tensor that can be given the place of a number as its data."""
    return (
        type(value) is Tensor
        and value.dtype is torch.float32
        and value.is_cpu
        and value.layout is torch.strided
        and not (value.dim() or value.requires_grad or value.is_inference())
    )


def _same(objects: Sequence[Any], others: Sequence[Any]) -> bool:
    """The very same objects in the same order."""
    return len(objects) == len(others) and all(map(is_, objects, others))


def _contents(entries: Sequence[dict[str, Any]]) -> list[Any]:
    return list(chain.from_iterable(map(dict.values, entries)))


def _structure(rule: Rule) -> tuple[Any, ...]:
    return tuple(rule.slots(ndim) for ndim in (1, 2))

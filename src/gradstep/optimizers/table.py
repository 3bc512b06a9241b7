"""The parameters and state of an optimizer as columns that the engines can use at once.

Everything here is derived from ``param_groups`` and ``state``, which stay the only truth: before each step
:meth:`Table.batches` compares, and a table that no longer tells the truth (a parameter replaced, a state loaded, data
moved or resized) is made anew. The comparison is a few C-level maps over all parameters, about a microsecond each.
"""

from __future__ import annotations

import gc
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from itertools import chain
from operator import is_
from typing import TYPE_CHECKING, Any, NamedTuple, TypeGuard, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gradstep.engines.base import KEY, ROW, Engine, UpdateSpec
from gradstep.optimizers.batch import Part, TorchBatch
from gradstep.optimizers.choice import Choice, Choices
from gradstep.optimizers.gradients import usable
from gradstep.optimizers.memory import Layouts, extent, is_addressable, is_freed, is_symbolic_zero, overlapping
from gradstep.optimizers.memory_native import NativeLayouts, is_native
from gradstep.optimizers.rehearsal import rehearse
from gradstep.optimizers.state import filled
from gradstep.optimizers.state_check import MOST_STEPS, check_entry
from gradstep.optimizers.storage import Storage, Stored
from gradstep.rules import Rule
from gradstep.storage.noise import keys

if TYPE_CHECKING:  # a fifth of the time to import gradstep, for those who page state
    from gradstep.optimizers.placement import Placement


@contextmanager
def _uncollected() -> Iterator[None]:
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


class _Kind(NamedTuple):
    """What the parameters of a part have in common; ``alone`` is the number of one that shares memory, else −1."""

    engine: Engine
    spec: UpdateSpec
    fields: tuple[str, ...]
    dtype: torch.dtype
    plain: bool
    alone: int


@final
class Table:
    """The parameters that have state, in the order of ``param_groups``."""

    @_uncollected()
    def __init__(
        self,
        *,
        engine: str,
        storage: Storage,
        paged: Placement | None,
        rules: Sequence[Rule],
        groups: Sequence[dict[str, Any]],
        state: defaultdict[Tensor, dict[str, Any]],
    ) -> None:
        """Find or create the state of every parameter that has some or has a gradient; ``state`` is not changed yet.

        Raises:
            RuntimeError: a gradient, or state that was loaded or changed by hand, that does not fit.
            TypeError: what stands among the parameters is no tensor, or what stands for state no dictionary.
            ValueError: an engine that cannot serve a parameter, one that is there twice, or a step count that cannot be
                one.
        """
        names = list(chain.from_iterable(map(parameter_names, groups, range(len(groups)))))
        self.flat: list[Tensor] = list(chain.from_iterable(g["params"] for g in groups))
        _check_parameters(self.flat, names)
        self.sizes = [len(g["params"]) for g in groups]
        self.seed = storage.seed
        self.rules = list(rules)
        self.group = np.repeat(np.arange(len(groups)), self.sizes)
        self._state, self._installed = state, False
        gradients = [p.grad for p in self.flat]
        old = {i: state[p] for i, p in enumerate(self.flat) if p in state and not _is_empty(state[p])}
        self._served = [i for i, g in enumerate(gradients) if g is not None or isinstance(old.get(i), dict)]
        self.stateless = sorted(set(range(len(self.flat))) - set(self._served))
        starts = {"step": 0.0, **type(rules[0]).scalars} if rules else {"step": 0.0}
        self.scalar_names = tuple(starts)

        # First everything that may fail: nothing is changed before all of it has succeeded.
        choices = [Choices(engine, storage, rule, group) for rule, group in zip(rules, groups, strict=True)]
        kinds: dict[int, _Kind] = {}
        stored: dict[int, Stored] = {}
        known: dict[Any, tuple[Choice, _Kind]] = {}  # a choice is kept, so that no other gets its id
        for i in self._served:
            p, g, group = self.flat[i], gradients[i], self.group[i]
            plain = is_addressable(p)
            if not plain and (is_freed(p) or is_symbolic_zero(p)):
                raise RuntimeError(
                    f"{names[i]} has no memory for its {p.numel():,} elements, so there is nothing to update"
                )
            if g is not None:
                g = usable(p, g, names[i])
            choice = choices[group].of(p, names[i], addressable=plain)
            stored[i], dtype = choice.stored, p.dtype if g is None else g.dtype
            if i in old:
                check_entry(p, stored[i], rules[group], old[i], names[i])
            alike = (id(choice), dtype, plain)
            if alike not in known:
                spec, fields = stored[i].spec(rules[group], dtype), tuple(stored[i].fields)
                known[alike] = choice, _Kind(choice.engine, spec, fields, dtype, plain, -1)
            kinds[i] = known[alike][1]
        for i in self._sharing(kinds):
            kinds[i] = kinds[i]._replace(alone=i)
        members: defaultdict[_Kind, list[int]] = defaultdict(list)
        for i, kind in kinds.items():
            members[kind].append(i)
        for kind in members:
            kind.engine.prepare(kind.spec)
        if paged is None:
            made = [filled(self.flat[i], stored[i], old.get(i, {}), names[i]) for i in self._served]
        else:
            wanted = [(names[i], self.flat[i], stored[i], old.get(i, {})) for i in self._served]
            made = paged.filled(wanted, self.scalar_names)
        self._made = dict(zip(self._served, made, strict=True))
        self._numbers: NDArray[np.float32] = np.zeros((len(self.flat), len(starts)), dtype=np.float32)
        if made:
            self._numbers[self._served] = [
                [float(entry.get(name, start)) for name, start in starts.items()] for entry in made
            ]
        self._rows = [] if paged is None else paged.rows(self.flat)

        self.parts = [self._part(kind, positions, names) for kind, positions in members.items()]
        for part in self.parts:
            if part.plain and not part.has_memory:
                raise RuntimeError(
                    f"the state of {part.names[0]} would have no memory: a mode of torch (FakeTensorMode, say) makes "
                    "tensors without numbers in place of usual ones; take the step outside of it"
                )
        # Each number has a storage of its own, so that a copy or a file of it holds no other parameter's.
        self._cells = [torch.from_numpy(self._numbers[i, k, ...]) for i in self._served for k in range(len(starts))]
        native = any(part.engine.by_address for part in self.parts) and is_native()
        self._cell_layouts = (NativeLayouts if native else Layouts).of(self._cells)
        if not old.keys().isdisjoint(self._served):
            self._check_state_apart()
        for part in self.parts:
            rehearse(part)

    def _check_state_apart(self) -> None:
        """Refuse state that was loaded or changed by hand if an array shares memory with another, or with a parameter.

        Raises:
            RuntimeError: naming them.
        """
        parts = [part for part in self.parts if part.plain]
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
        shared = overlapping(starts, starts + np.array([extent(t) for _, t in arrays], dtype=np.int64))
        if shared and shared[0] < count:  # parameters, which come last, may share memory with each other
            named = ", ".join(arrays[k][0] for k in shared[:4])
            raise RuntimeError(f"arrays of state share memory: {named}; give each its own by clone()")

    def _sharing(self, kinds: Mapping[int, _Kind]) -> list[int]:
        """The positions of parameters that share memory with another: these are updated one after the other."""
        mine = [i for i, kind in kinds.items() if kind.plain and self.flat[i].numel()]
        starts = np.array([self.flat[i].data_ptr() for i in mine], dtype=np.int64)
        lengths = np.array([extent(self.flat[i]) for i in mine], dtype=np.int64)
        return [mine[k] for k in overlapping(starts, starts + lengths)]

    def _part(self, kind: _Kind, members: list[int], names: list[str]) -> Part:
        return Part(
            engine=kind.engine,
            spec=kind.spec,
            members=np.array(members),
            groups=self.group[members],
            params=[self.flat[i] for i in members],
            names=[names[i] for i in members],
            fields=kind.fields,
            slots=[[self._made[i][key] for i in members] for key in kind.fields],
            dtype=kind.dtype,
            plain=kind.plain,
        )

    @_uncollected()
    def install(self) -> None:
        """Put the state into the optimizer's, before the first step that changes it."""
        if self._installed:
            return
        self._installed = True
        state, cells, moved = self._state, iter(self._cells), set[int]()
        for i, entry in self._made.items():
            held = state.setdefault(self.flat[i], {})
            held.update(entry)
            for name in self.scalar_names:
                cell, old = next(cells), held.get(name)
                if _is_number(old) and id(old) not in moved:  # somebody else may hold it: a state dict, say
                    moved.add(id(old))
                    old.data = cell
                else:
                    held[name] = cell
        self._made = {}
        self.entries = [state[self.flat[i]] for i in self._served]
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
        """What there is to update, checked; None if this table no longer tells the truth.

        Args:
            rules, groups, flat, state: as they are now.
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
        steps = self._numbers[:, 0]
        return (
            self._cell_layouts.still_hold(self._cells)
            and bool(((steps >= 0) & (steps <= MOST_STEPS) & (steps == np.floor(steps))).all())
            and bool(np.isfinite(self._numbers).all())
        )

    def _same_structure(self, rules: Sequence[Rule]) -> bool:
        if _same(rules, self.rules):
            return True
        same = list(map(_structure, rules)) == list(map(_structure, self.rules))
        self.rules = list(rules)
        return same

    def coefficients(self, batch: TorchBatch, rules: Sequence[Rule]) -> NDArray[np.float32]:
        """Give the batch its coefficients and keys; what is returned are the scalars after the step.

        Args:
            batch: what is to be updated.
            rules: one per group.
        """
        old = self._numbers[batch.members]
        group, count = batch.part.only_group, len(old)
        if group is not None and old.tobytes() == old[:1].tobytes() * count:  # all are at the same step
            pairs, rows = [[group, *old[0].tolist()]], np.zeros(1, np.int64)
        else:
            found, rows = np.unique(np.column_stack((self.group[batch.members], old)), axis=0, return_inverse=True)
            pairs, rows = found.tolist(), rows.reshape(-1)
        names, table, after = batch.spec.coefficients[:-1], [], []
        for number, last, *others in pairs:
            rule, step = rules[int(number)], int(last) + 1
            before = dict(zip(self.scalar_names[1:], others, strict=True))
            row = rule.coefficients(step, **before)
            table.append([*(row[name] for name in names), -1.0 if rule.maximize else 1.0])
            after.append([step, *(row[name] for name in before)])
        batch.coefficients = np.array(table, dtype=np.float64)
        batch.table[:, ROW] = rows
        new = np.array(after, dtype=np.float32)[rows]
        if batch.spec.noise:
            steps = np.broadcast_to(new[:, 0].astype(np.int64), count)
            batch.table[:, KEY] = keys(self.seed, batch.members, steps)
        return new

    def commit(self, batch: TorchBatch, scalars: NDArray[np.float32]) -> None:
        """Write the scalars after a step: of each parameter, or the same of all."""
        self._numbers[batch.members] = scalars

    def keep(self, paged: Placement) -> None:
        """Write the scalars of all parameters into the page files, beside the state."""
        paged.keep(self._numbers, self._rows)


def check_lists(groups: Sequence[Mapping[str, Any]]) -> None:
    """Refuse groups whose parameters are in no list, or nothing like one.

    Raises:
        TypeError: an iterator, which is empty after it was read once; a tensor, of which the rows would be taken; a
            set, which has no order.

    >>> check_lists([{"params": iter([torch.zeros(3)])}])
    Traceback (most recent call last):
    TypeError: param_groups[0]["params"] is a list_iterator, but must be a list of tensors: use list(...)
    """
    for index, group in enumerate(groups):
        params = group["params"]
        if type(params) is not list and (not isinstance(params, Sized) or isinstance(params, (Tensor, set, frozenset))):
            remedy = "[...]" if isinstance(params, Tensor) else "list(...)"
            kind = type(params).__name__
            raise TypeError(f'param_groups[{index}]["params"] is a {kind}, but must be a list of tensors: use {remedy}')


def parameter_names(group: Mapping[str, Any], index: int) -> list[str]:
    """What to call the parameters of a group: their own names, where it was given them."""
    count = len(group["params"])  # who appends parameters or removes some by hand may not know of their names
    named = list(group.get("param_names") or ())[:count]
    return [*named, *(f"parameter {j} of group {index}" for j in range(len(named), count))]


def _is_number(value: Any) -> TypeGuard[Tensor]:
    """Whether it is a tensor that can be given the place of a number as its data."""
    return (
        type(value) is Tensor
        and value.dtype is torch.float32
        and value.is_cpu
        and value.layout is torch.strided
        and not (value.dim() or value.requires_grad or value.is_inference())
    )


def _is_empty(entry: Any) -> bool:
    return isinstance(entry, dict) and not entry


def _check_parameters(flat: Sequence[Any], names: Sequence[str]) -> None:
    """Refuse what somebody has put into ``param_groups`` by hand if it is no tensor or is there already.

    Raises:
        TypeError, ValueError: as the constructor does.
    """
    if len(set(map(id, flat))) == len(flat) and all(isinstance(p, Tensor) for p in flat):
        return
    first: dict[int, str] = {}
    for p, name in zip(flat, names, strict=True):
        if not isinstance(p, Tensor):
            raise TypeError(f"optimizer can only optimize Tensors, but {name} is a {type(p).__name__}: remove it")
        if id(p) in first:
            raise ValueError(
                f"param_groups contain the same parameter more than once: {name} is {first[id(p)]}; remove one of them"
            )
        first[id(p)] = name


def _same(objects: Sequence[Any], others: Sequence[Any]) -> bool:
    """The very same objects in the same order."""
    return len(objects) == len(others) and all(map(is_, objects, others))


def _contents(entries: Sequence[dict[str, Any]]) -> list[Any]:
    return list(chain.from_iterable(map(dict.values, entries)))


def _structure(rule: Rule) -> tuple[Any, ...]:
    return tuple(rule.slots(ndim) for ndim in (1, 2))

"""The parameters and state of an optimizer as columns that the engines can use at once.

Everything here is derived from ``param_groups`` and ``state``, which stay the only truth: before each step
:meth:`Table.holds` compares, and a table that no longer tells the truth (a parameter replaced, a state loaded, data
moved or resized) is made anew. The comparison is a few C-level maps over all parameters, about a microsecond each.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from operator import is_
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gradstep.engines.base import Batch, Engine, Int64s, UpdateSpec
from gradstep.engines.eager import real
from gradstep.optimizers import survey
from gradstep.optimizers.choice import choose
from gradstep.optimizers.gradients import usable
from gradstep.rules import Rule, Slot
from gradstep.storage.elements import ELEMENTS


def state_dtype(p: Tensor) -> torch.dtype:
    """The type that slots are kept in: float32 for half precision, else the parameter's own.

    A deviation from torch.optim, which keeps bfloat16 moments for a bfloat16 parameter, where 0.999 rounds to 1.
    """
    return {
        torch.float16: torch.float32,
        torch.bfloat16: torch.float32,
        torch.complex32: torch.complex64,
    }.get(p.dtype, p.dtype)


def new_slot(p: Tensor, slot: Slot) -> Tensor:
    """A slot's tensor before the first step, in the parameter's layout of memory."""
    if slot.collapsed is None:
        # A complex number is a pair of real ones, and each starts with the same.
        fill = complex(slot.fill, slot.fill) if p.is_complex() else slot.fill
        return torch.full_like(p, fill, dtype=state_dtype(p), memory_format=torch.preserve_format)
    return torch.full(slot.shape(tuple(p.shape)), slot.fill, dtype=state_dtype(p), device=p.device)


@final
@dataclass(frozen=True)
class Part:
    """Parameters that one engine updates with one spec.

    Attributes:
        engine: who executes.
        spec: what is computed.
        members: (n,) positions in the table, also as a list.
        params, names, states: the parameters, what they are called, and where their state is kept.
        slots: the tensors of each slot.
        handles: by which to ask about parameters and slots, one array per column.
        known: the facts of parameters and slots when this was made, one array per column.
        dtype: the gradients' type.
    """

    engine: Engine
    spec: UpdateSpec
    members: Int64s
    params: list[Tensor]
    names: list[str]
    slots: list[list[Tensor]]
    handles: list[Int64s]
    known: list[Int64s]
    dtype: torch.dtype

    @cached_property
    def positions(self) -> list[int]:
        """The members as Python numbers, which index lists ten times faster."""
        return [int(i) for i in self.members]

    @cached_property
    def addresses(self) -> Int64s:
        """(n, columns) with the gradients' column to be filled in."""
        p, *slots = (facts[:, survey.POINTER] for facts in self.known)
        return np.column_stack((p, np.zeros_like(p), *slots))

    @cached_property
    def gradient_facts(self) -> Int64s:
        """What a gradient must be to need no closer look: (n, all but the pointer)."""
        facts: Int64s = self.known[0][:, survey.POINTER + 1 :].copy()
        facts[:, survey.DTYPE - 1] = survey.facts([torch.empty(0, dtype=self.dtype)])[0, survey.DTYPE]
        return facts

    def moved(self) -> bool:
        """Whether a parameter or slot is no longer what this table says."""
        present = map(survey.facts, (self.params, *self.slots), self.handles)
        return not all(map(np.array_equal, present, self.known))


@final
class TorchBatch(Batch):
    """Parameters of one part that have a gradient in this step."""

    def __init__(self, part: Part, gradients: list[Tensor], active: Int64s | None) -> None:
        self.part = part
        self.spec = part.spec
        self.active = active  # None: all of them
        self.gradients = gradients
        self.facts: Int64s
        self.members = part.members if active is None else part.members[active]
        self.threads = torch.get_num_threads()

    def _taken(self, column: Sequence[Any]) -> Sequence[Any]:
        return column if self.active is None else [column[i] for i in self.active]

    @property
    def lengths(self) -> Int64s:
        known = self.part.known[0][:, survey.NUMEL]
        return known if self.active is None else known[self.active]

    @property
    def addresses(self) -> Int64s:
        result = self.part.addresses if self.active is None else self.part.addresses[self.active]
        result[:, 1] = self.facts[:, survey.POINTER]
        return result

    @property
    def columns(self) -> Sequence[Sequence[Tensor]]:
        return [self._taken(self.part.params), self.gradients, *map(self._taken, self.part.slots)]

    def arrays(self) -> Sequence[Sequence[NDArray[Any]]]:
        return [[_array(t) for t in column] for column in self.columns]

    def check(self) -> None:
        """Look at every gradient closely where needed; raise before anything is changed."""
        self.facts = survey.facts(self.gradients)
        expected = self.part.gradient_facts if self.active is None else self.part.gradient_facts[self.active]
        odd = np.flatnonzero((self.facts[:, survey.POINTER + 1 :] != expected).any(axis=1))
        # A lazily negated gradient (the imaginary part of a conjugate) has other strides, unless it is one number.
        lazy = [k for k in np.flatnonzero(self.facts[:, survey.NUMEL] == 1) if self.gradients[k].is_neg()]
        if self.part.dtype.is_complex:
            lazy += [k for k, g in enumerate(self.gradients) if g.is_conj() or g.is_neg()]
        if not len(odd) and not lazy:
            return
        params, names = self._taken(self.part.params), self._taken(self.part.names)
        for k in {*odd.tolist(), *lazy}:
            g = usable(params[k], self.gradients[k], names[k])
            if g.dtype != self.part.dtype:
                raise RuntimeError(f"the gradient of {names[k]} changed from {self.part.dtype} to {g.dtype}")
            self.gradients[k] = g
        self.facts = survey.facts(self.gradients)


def _array(tensor: Tensor) -> NDArray[Any]:
    tensor = tensor.detach()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(np.uint16)
    return tensor.numpy()


@final
class Table:
    """The parameters that have state, in the order of ``param_groups``."""

    def __init__(
        self,
        *,
        engine: str,
        rules: Sequence[Rule],
        groups: Sequence[dict[str, Any]],
        state: defaultdict[Tensor, dict[str, Any]],
        gradients: Sequence[Tensor | None],
    ) -> None:
        """Find or create the state of every parameter that has some or has a gradient.

        Raises:
            RuntimeError: a gradient or a loaded slot that does not fit; nothing was changed.
            ValueError: an engine that cannot serve a parameter.
        """
        self.flat: list[Tensor] = list(chain.from_iterable(g["params"] for g in groups))
        self.sizes = [len(g["params"]) for g in groups]
        self.structure = [_structure(rule) for rule in rules]
        self.group = np.repeat(np.arange(len(groups)), self.sizes)
        names = list(chain.from_iterable(map(parameter_names, groups, range(len(groups)))))
        served = [i for i, p in enumerate(self.flat) if gradients[i] is not None or state.get(p)]
        self.stateless = sorted(set(range(len(self.flat))) - set(served))
        scalars = {"step": 0.0, **type(rules[0]).scalars} if rules else {"step": 0.0}

        # First everything that may fail ...
        made: dict[int, dict[str, Any]] = {}
        buckets: defaultdict[Any, list[int]] = defaultdict(list)
        for i in served:
            p, g, rule = self.flat[i], gradients[i], rules[self.group[i]]
            if g is not None:
                usable(p, g, names[i])
            chosen, _ = choose(engine, type(rule), p, names[i])
            made[i] = _filled(p, rule, state.get(p, {}), names[i])
            buckets[chosen, _spec(rule, p, p if g is None else g, made[i])].append(i)
        for chosen, spec in buckets:
            chosen.prepare(spec)

        # ... then the state.
        self.scalar_names = tuple(scalars)
        self.scalars = torch.zeros(len(self.flat), len(scalars))
        for i in served:
            entry, old = state[self.flat[i]], made[i]
            self.scalars[i] = torch.tensor([float(old.get(n, start)) for n, start in scalars.items()])
            entry.update(old)
            entry.update(zip(scalars, self.scalars[i].unbind(), strict=True))
        self._numbers: NDArray[np.float32] = self.scalars.numpy()
        self._state = state
        self.entries = [state[self.flat[i]] for i in served]
        self.contents = _contents(self.entries)
        self.keys, self.values = list(state), list(state.values())
        self.parts = [
            self._part(chosen, spec, members, names, gradients) for (chosen, spec), members in buckets.items()
        ]

    def _part(
        self,
        engine: Engine,
        spec: UpdateSpec,
        members: list[int],
        names: list[str],
        gradients: Sequence[Tensor | None],
    ) -> Part:
        params = [self.flat[i] for i in members]
        first = gradients[members[0]]
        slots = [[self._state[p][name] for p in params] for name in spec.slots]
        return Part(
            engine=engine,
            spec=spec,
            members=np.array(members),
            params=params,
            names=[names[i] for i in members],
            slots=slots,
            handles=[survey.handles(column) for column in (params, *slots)],
            known=[survey.facts(column) for column in (params, *slots)],
            dtype=params[0].dtype if first is None else first.dtype,
        )

    def holds(
        self,
        rules: Sequence[Rule],
        groups: Sequence[dict[str, Any]],
        flat: Sequence[Tensor],
        state: dict[Tensor, dict[str, Any]],
        gradients: Sequence[Tensor | None],
    ) -> bool:
        """Whether this table still tells the truth."""
        return (
            _same(flat, self.flat)
            and self.sizes == [len(g["params"]) for g in groups]
            and self.structure == [_structure(rule) for rule in rules]
            and _same(list(state), self.keys)
            and _same(list(state.values()), self.values)
            and _same(_contents(self.entries), self.contents)
            and all(gradients[i] is None for i in self.stateless)
            and not any(part.moved() for part in self.parts)
        )

    def batches(self, gradients: Sequence[Tensor | None]) -> list[TorchBatch]:
        """What there is to update, checked.

        Raises:
            RuntimeError: a gradient that does not fit.
        """
        everywhere = not any(map(is_, gradients, [None] * len(gradients)))
        result = []
        for part in self.parts:
            whole = len(part.positions) == len(gradients)
            found: list[Any] = list(gradients) if whole else [gradients[i] for i in part.positions]
            active = None
            if not everywhere:
                active = np.array([k for k, g in enumerate(found) if g is not None], dtype=np.int64)
                found = [found[k] for k in active]
            if found:
                result.append(TorchBatch(part, found, active))
        for batch in result:
            batch.check()
        return result

    def coefficients(self, batch: TorchBatch, rules: Sequence[Rule]) -> NDArray[np.float32]:
        """Give the batch its ``rows`` and ``coefficients``; what is returned are the scalars after the step.

        Args:
            batch: what is to be updated.
            rules: one per group.
        """
        old = self._numbers[batch.members]
        keys = np.column_stack((self.group[batch.members], old))
        if (keys == keys[0]).all():
            unique, batch.rows = keys[:1], np.zeros(len(keys), np.int64)
        else:
            unique, rows = np.unique(keys, axis=0, return_inverse=True)
            batch.rows = rows.reshape(-1).astype(np.int64)
        names, table, after = batch.spec.coefficients[:-1], [], []
        for key in unique:
            rule, step = rules[int(key[0])], int(key[1]) + 1
            before = dict(zip(self.scalar_names[1:], map(float, key[2:]), strict=True))
            row = rule.coefficients(step, **before)
            table.append([*(row[name] for name in names), -1.0 if rule.maximize else 1.0])
            after.append([step, *(row[name] for name in before)])
        batch.coefficients = np.array(table, dtype=np.float64)
        return np.array(after, dtype=np.float32)[batch.rows]

    def commit(self, batch: TorchBatch, scalars: NDArray[np.float32]) -> None:
        """Write the scalars after a step."""
        self._numbers[batch.members] = scalars


def _same(objects: Sequence[Any], others: Sequence[Any]) -> bool:
    """The very same objects in the same order."""
    return len(objects) == len(others) and all(map(is_, objects, others))


def _contents(entries: Sequence[dict[str, Any]]) -> list[Any]:
    return list(chain.from_iterable(map(dict.values, entries)))


def _structure(rule: Rule) -> tuple[Any, ...]:
    return tuple(rule.slots(ndim) for ndim in (1, 2))


def parameter_names(group: Mapping[str, Any], index: int) -> list[str]:
    """What to call the parameters of a group: their own names, where it was given them."""
    named = group.get("param_names")
    return list(named) if named else [f"parameter {j} of group {index}" for j in range(len(group["params"]))]


def _filled(p: Tensor, rule: Rule, old: dict[str, Any], name: str) -> dict[str, Any]:
    """The old state with every missing slot created and every other brought into the parameter's layout."""
    entry = dict(old)
    slots = rule.slots(p.dim())
    if "step" not in entry and any(entry.get(slot.name) is not None for slot in slots):
        entry["step"] = 1.0  # torch's SGD does not count: a buffer that exists has had its first step
    for slot in slots:
        tensor = entry.get(slot.name)
        if tensor is None:
            entry[slot.name] = new_slot(p, slot)
            continue
        shape = slot.shape(tuple(p.shape))
        if tuple(tensor.shape) != shape:
            raise RuntimeError(f"{slot.name} of {name} has shape {tuple(tensor.shape)}, but must have {shape}")
        fresh = new_slot(p, slot)
        if (tensor.dtype, tensor.device, tensor.stride()) != (fresh.dtype, fresh.device, fresh.stride()):
            entry[slot.name] = fresh.copy_(tensor)
    return entry


def _spec(rule: Rule, p: Tensor, g: Tensor, entry: dict[str, Any]) -> UpdateSpec:
    slots = tuple(slot.name for slot in rule.slots(p.dim()))
    elements = [t.dtype.to_real() for t in (p, g, *(entry[name] for name in slots))]
    return UpdateSpec(
        rule=type(rule),
        slots=slots,
        coefficients=(*rule.coefficients(1, **type(rule).scalars), "gradient"),
        # The eager engine serves types without a codec too, and does not look at the columns.
        columns=tuple(ELEMENTS.get(str(e).removeprefix("torch."), ELEMENTS["float32"]) for e in elements),
    )

"""The parameters and state of an optimizer as columns that the engines can use at once.

Everything here is derived from ``param_groups`` and ``state``, which stay the only truth: before each step
:meth:`Table.batches` compares, and a table that no longer tells the truth (a parameter replaced, a state loaded, data
moved or resized) is made anew. The comparison is a few C-level maps over all parameters, about a microsecond each.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import chain
from operator import is_
from typing import TYPE_CHECKING, Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gradstep.engines.base import KEY, ROW, Engine, UpdateSpec
from gradstep.optimizers import survey
from gradstep.optimizers.batch import Part, TorchBatch
from gradstep.optimizers.choice import choose
from gradstep.optimizers.gradients import usable
from gradstep.optimizers.state import filled
from gradstep.optimizers.storage import Storage, Stored
from gradstep.optimizers.survey import MOVED
from gradstep.rules import Rule
from gradstep.storage.noise import keys

if TYPE_CHECKING:  # a fifth of the time to import gradstep, for those who page state
    from gradstep.optimizers.placement import Placement


@final
class Table:
    """The parameters that have state, in the order of ``param_groups``."""

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
        """Find or create the state of every parameter that has some or has a gradient.

        Raises:
            RuntimeError: a gradient or a loaded slot that does not fit; nothing was changed.
            ValueError: an engine that cannot serve a parameter.
        """
        self.flat: list[Tensor] = list(chain.from_iterable(g["params"] for g in groups))
        self.sizes = [len(g["params"]) for g in groups]
        self.seed = storage.seed
        self.rules = list(rules)
        self.group = np.repeat(np.arange(len(groups)), self.sizes)
        names = list(chain.from_iterable(map(parameter_names, groups, range(len(groups)))))
        gradients = [p.grad for p in self.flat]
        served = [i for i, p in enumerate(self.flat) if gradients[i] is not None or state.get(p)]
        self.stateless = sorted(set(range(len(self.flat))) - set(served))
        scalars = {"step": 0.0, **type(rules[0]).scalars} if rules else {"step": 0.0}

        # First everything that may fail ...
        made: dict[int, dict[str, Any]] = {}
        stored: dict[int, Stored] = {}
        buckets: defaultdict[Any, list[int]] = defaultdict(list)
        for i in served:
            p, g, rule = self.flat[i], gradients[i], rules[self.group[i]]
            if g is not None:
                usable(p, g, names[i])
            stored[i] = storage.of(rule, groups[self.group[i]], p, names[i])
            chosen, _ = choose(engine, type(rule), p, names[i], noisy=stored[i].noisy)
            given = p if g is None else g
            buckets[chosen, stored[i].spec(rule, given.dtype), tuple(stored[i].fields), given.dtype].append(i)
        for chosen, spec, *_ in buckets:
            chosen.prepare(spec)
        if paged is None:
            made = {i: filled(self.flat[i], stored[i], state.get(self.flat[i], {}), names[i]) for i in served}
        else:
            wanted = [(names[i], self.flat[i], stored[i], state.get(self.flat[i], {})) for i in served]
            made = dict(zip(served, paged.filled(wanted, tuple(scalars)), strict=True))

        # ... then the state.
        self.scalar_names = tuple(scalars)
        self.scalars = torch.zeros(len(self.flat), len(scalars), dtype=torch.float32, device="cpu")
        for i in served:
            entry, old = state.setdefault(self.flat[i], {}), made[i]
            numbers = [float(old.get(n, start)) for n, start in scalars.items()]
            self.scalars[i] = torch.tensor(numbers, dtype=torch.float32, device="cpu")
            entry.update(old)
            entry.update(zip(scalars, self.scalars[i].unbind(), strict=True))
        self._numbers: NDArray[np.float32] = self.scalars.numpy()
        self._rows = [] if paged is None else paged.rows(self.flat)
        self._state = state
        self.entries = [state[self.flat[i]] for i in served]
        self.contents = _contents(self.entries)
        self.keys, self.values = list(state), list(state.values())
        self.parts = [
            self._part(chosen, spec, fields, dtype, members, names)
            for (chosen, spec, fields, dtype), members in buckets.items()
        ]

    def _part(
        self,
        engine: Engine,
        spec: UpdateSpec,
        fields: Sequence[str],
        dtype: torch.dtype,
        members: list[int],
        names: list[str],
    ) -> Part:
        params = [self.flat[i] for i in members]
        slots = [[self._state[p][key] for p in params] for key in fields]
        return Part(
            engine=engine,
            spec=spec,
            members=np.array(members),
            groups=self.group[members],
            params=params,
            names=[names[i] for i in members],
            slots=slots,
            aliases=[t.detach() for slot in slots for t in slot],
            handles=survey.handles(chain(params, *slots)),
            known=survey.facts([params, *slots]),
            dtype=dtype,
        )

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
            len(flat) == len(self.flat)
            and self.sizes == [len(g["params"]) for g in groups]
            and self._same_structure(rules)
            and (not state_seen or self._same_state(state))
            and all(flat[i] is self.flat[i] and flat[i].grad is None for i in self.stateless)
        ):
            return None
        found = [part.look(flat) for part in self.parts]
        if any(f & MOVED for f in found):
            return None
        batches = (TorchBatch(part, odd=f != 0) for part, f in zip(self.parts, found, strict=True))
        return [batch for batch in batches if len(batch.table)]

    def _same_state(self, state: dict[Tensor, dict[str, Any]]) -> bool:
        return (
            _same(list(state), self.keys)
            and _same(list(state.values()), self.values)
            and _same(_contents(self.entries), self.contents)
            and not any(part.slots_moved() for part in self.parts)
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


def parameter_names(group: Mapping[str, Any], index: int) -> list[str]:
    """What to call the parameters of a group: their own names, where it was given them."""
    named = group.get("param_names")
    return list(named) if named else [f"parameter {j} of group {index}" for j in range(len(group["params"]))]


def _same(objects: Sequence[Any], others: Sequence[Any]) -> bool:
    """The very same objects in the same order."""
    return len(objects) == len(others) and all(map(is_, objects, others))


def _contents(entries: Sequence[dict[str, Any]]) -> list[Any]:
    return list(chain.from_iterable(map(dict.values, entries)))


def _structure(rule: Rule) -> tuple[Any, ...]:
    return tuple(rule.slots(ndim) for ndim in (1, 2))

"""Build the table of an optimizer, and a step's batches with it, before a step changes anything."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gradstep.engines.base import Engine
from gradstep.engines.step import pause_garbage_collection
from gradstep.optimizers.arguments import parameter_names
from gradstep.optimizers.checkpoint.matching import read_groups_storage, unnest_fields
from gradstep.optimizers.memory import (
    conform_gradient,
    extent,
    find_overlaps,
    holds_flat_shards,
    is_addressable,
    is_distributed,
    is_freed,
    is_symbolic_zero,
    plain_name,
)
from gradstep.optimizers.sharded import Place, ShardedParameter, local_gradients
from gradstep.optimizers.state.arrays import complete_state
from gradstep.optimizers.state.check import check_entry
from gradstep.optimizers.state.storage import HEADER, Choice, Choices, Storage, element_of, make_zeros
from gradstep.optimizers.step.part import Part, TorchBatch
from gradstep.optimizers.step.ranks import FlatShards, MeshRanks, check_flat_shards
from gradstep.optimizers.step.rehearsal import COMMON_DTYPES, rehearse
from gradstep.optimizers.step.sums import check_rule
from gradstep.optimizers.step.table import Table, check_state_apart, has_memory
from gradstep.optimizers.wrapped import ZeroRanks
from gradstep.rules import Rule
from gradstep.storage.elements import number_of_name, streams
from gradstep.storage.policy import ParameterStorage, UpdateSpec

if TYPE_CHECKING:  # importing it takes a fifth of gradstep's import time, and only paged state needs it
    from gradstep.optimizers.paged.placement import Placement


class _PartKey(NamedTuple):
    """What the parameters of one part have in common.

    ``alone`` is the position of a parameter that shares memory with another one and needs a part for itself, else −1.
    ``place`` says where the elements of distributed parameters are.
    """

    engine: Engine
    spec: UpdateSpec
    fields: tuple[str, ...]
    dtype: torch.dtype
    plain: bool
    device: torch.device
    alone: int
    place: Place | None


def build_batches(
    engine: str,
    storage: Storage,
    paged: Placement | None,
    rules: Sequence[Rule],
    groups: Sequence[dict[str, Any]],
    state: defaultdict[Tensor, dict[str, Any]],
    zero: ZeroRanks | None,
    *,
    watched: bool,
) -> tuple[Table, list[TorchBatch]]:
    """Build a table, and return it with the batches of this step.

    Args:
        engine, storage: the user's choices.
        paged: the placement of paged state; None for state in memory.
        rules: one per group.
        groups, state: the optimizer's; ``state`` is not changed.
        zero: the ranks of the ``ZeroRedundancyOptimizer`` around this one; None without it.
        watched: whether this step collects statistics; only the kernel that it needs is compiled.

    Raises:
        RuntimeError: a gradient, or state that was loaded or changed by hand, does not fit its parameter.
        TypeError: a parameter is not a tensor, or an entry of state not a dictionary.
        ValueError: the engine cannot serve a parameter, a parameter occurs twice, or a step count is invalid.
    """
    headers = {kind: json.dumps(storage.header(kind)) for kind in set(map(type, rules))}
    pairs = [(group.get(HEADER), headers[type(rule)]) for group, rule in zip(groups, rules, strict=True)]
    if any(header not in (None, own) for header, own in pairs):  # a loaded one, of which no load_state_dict() knows
        storage = read_groups_storage(list(map(type, rules)), storage, groups)
    # State outlives a step that is taken in inference mode.
    with pause_garbage_collection(), torch.inference_mode(mode=False), torch.no_grad():
        table = _TableBuilder(engine, storage, paged, rules, groups, state, zero).build(watched)
    batches = table.batches(rules, groups, state, state_seen=False)  # a new table has not put its state there yet
    if batches is None:
        raise RuntimeError("parameters or gradients are being changed by another thread while they are stepped")
    return table, batches


@final
class _TableBuilder:
    """The parameters of a table that is being built; arguments as in :func:`build_batches`.

    Attributes:
        flat, names: the parameters of all groups, and their names.
        group_of: (parameters,) the number of each parameter's group.
        shards: the distributed parameters, by position in ``flat``.
        memory: the tensors that are updated: the local tensors of distributed parameters, else the parameters.
        old: the entries of state that exist, by position in ``flat``.
        stateful: the positions of parameters with a gradient or an entry of state.
        initial_numbers: names of the numbers kept once per parameter, with their values before the first step.
        stored: the codecs of each stateful parameter.
    """

    def __init__(
        self,
        engine: str,
        storage: Storage,
        paged: Placement | None,
        rules: Sequence[Rule],
        groups: Sequence[dict[str, Any]],
        state: defaultdict[Tensor, dict[str, Any]],
        zero: ZeroRanks | None,
    ) -> None:
        groups = groups if zero is None else zero.describe(groups)
        self.storage, self.paged, self.rules, self.groups, self.state = storage, paged, rules, groups, state
        self.zero = zero
        self.names = list(chain.from_iterable(map(parameter_names, groups, range(len(groups)))))
        self.flat: list[Tensor] = list(chain.from_iterable(g["params"] for g in groups))
        _check_parameters(self.flat, self.names)
        self.sizes = [len(g["params"]) for g in groups]
        self.group_of = np.repeat(np.arange(len(groups)), self.sizes)
        self.shards = {i: ShardedParameter(p, self.names[i], {}) for i, p in enumerate(self.flat) if is_distributed(p)}
        self.flat_shards = FlatShards() if zero is None and holds_flat_shards(groups) else None
        if self.flat_shards is not None:
            check_flat_shards(storage, rules, groups)
        self.memory = [self.shards[i].local if i in self.shards else p for i, p in enumerate(self.flat)]
        self.gradients = [p.grad for p in self.flat]
        self.old = {i: state[p] for i, p in enumerate(self.flat) if p in state and not _is_empty(state[p])}
        self.stateful = [i for i, g in enumerate(self.gradients) if g is not None or isinstance(self.old.get(i), dict)]
        scalars = chain.from_iterable(rule.scalars.items() for rule in rules)
        self.initial_numbers = {"step": 0.0, **dict(scalars)}
        self.choices = [Choices(engine, storage, rule, group) for rule, group in zip(rules, groups, strict=True)]
        self.stored: dict[int, ParameterStorage] = {}
        # It holds each choice, so that no other choice gets its id.
        self.key_of: dict[Any, tuple[Choice, _PartKey]] = {}

    def build(self, watched: bool) -> Table:
        """Return the table; the optimizer's state is unchanged."""
        kinds = {i: self.check_parameter(i) for i in self.stateful}
        for i in _find_shared_memory(kinds, self.memory):
            kinds[i] = kinds[i]._replace(alone=i)
        members: defaultdict[_PartKey, list[int]] = defaultdict(list)
        for i, kind in kinds.items():
            members[kind].append(i)
        for kind in members:
            kind.engine.prepare(kind.spec, watched=watched)
        entries = self.complete_entries()
        parts = [self.make_part(kind, positions, entries) for kind, positions in members.items()]
        self.check_parts(parts)
        entries |= {i: self.distribute(i, entries[i]) for i in self.stateful if i in self.shards}
        if self.paged is not None:
            self.paged.storage = self.storage  # the seed of the noise is saved beside the state
        places = dict.fromkeys(shard.place for shard in self.shards.values() if shard.place.dims)
        groups = self.groups if self.zero is None else self.zero.groups
        has_noise = any(kind.spec.noise for kind in members)
        return Table(
            parts,
            flat=self.flat,
            sizes=self.sizes,
            rules=self.rules,
            stateful=self.stateful,
            entries=list(entries.values()),
            initial_numbers=self.initial_numbers,
            state=self.state,
            paged=self.paged,
            ranks=MeshRanks(list(places), self.names) if places else self.zero or self.flat_shards,
            streams=_noise_streams(self.storage, groups, self.flat) if has_noise else None,
        )

    def check_parameter(self, i: int) -> _PartKey:
        """Check a parameter, its gradient and its state, choose its storage, and return the key of its part."""
        p, g, name, rule = self.memory[i], self.gradients[i], self.names[i], self.rules[self.group_of[i]]
        if i in self.shards:
            g = local_gradients([self.shards[i]])[0]
        plain = is_addressable(p)
        if not plain and (is_freed(p) or is_symbolic_zero(p)):
            raise RuntimeError(f"{name} has no memory for its {p.numel():,} elements, so there is nothing to update")
        if g is not None:
            g = conform_gradient(p, g, name)
        choice = self.choices[self.group_of[i]].of(self.flat[i], name, addressable=plain)
        stored = self.stored[i] = choice.stored
        dtype = p.dtype if g is None else g.dtype
        if i in self.shards:
            self.shards[i] = ShardedParameter(self.shards[i].parameter, name, stored.collapsed)
        if i in self.old:
            old = self.old[i]
            if isinstance(old, dict):  # ZeroRedundancyOptimizer puts entries of a checkpoint into the state
                old = unnest_fields(old)
            if i in self.shards:
                old = self.shards[i].localize(old, stored.fields)
            check_entry(p, stored, rule, old, name)
            self.old[i] = old
        place = self.shards[i].place if i in self.shards else None
        alike = (id(choice), dtype, plain, place)
        if alike not in self.key_of:
            spec, fields = stored.spec(rule, element_of(dtype)), tuple(stored.fields)
            engine = choice.engine_and_reason if dtype == p.dtype else choice.choose_engine_and_reason(dtype)
            self.key_of[alike] = choice, _PartKey(engine[0], spec, fields, dtype, plain, p.device, -1, place)
        return self.key_of[alike][1]

    def complete_entries(self) -> dict[int, dict[str, Any]]:
        """Return the complete state of each stateful parameter, by position: what exists, and new arrays."""
        if self.paged is not None:
            present = [(self.names[i], self.flat[i], self.stored[i], self.old.get(i, {})) for i in self.stateful]
            entries = self.paged.complete_state(present, tuple(self.initial_numbers))
            return dict(zip(self.stateful, entries, strict=True))
        return {
            i: make_zeros(self.memory[i], self.stored[i].fields)
            if i not in self.old and self.stored[i].starts_as_zeros and not self.memory[i].is_complex()
            else complete_state(self.memory[i], self.stored[i], self.old.get(i, {}), self.names[i])
            for i in self.stateful
        }

    def make_part(self, kind: _PartKey, positions: list[int], entries: Mapping[int, dict[str, Any]]) -> Part:
        """Return the part of the parameters at these positions."""
        return Part(
            engine=kind.engine,
            spec=kind.spec,
            members=np.array(positions),
            groups=self.group_of[positions],
            params=[self.memory[i] for i in positions],
            names=[self.names[i] for i in positions],
            fields=kind.fields,
            slots=[[entries[i][key] for i in positions] for key in kind.fields],
            dtype=kind.dtype,
            plain=kind.plain,
            shards=[] if kind.place is None else [self.shards[i] for i in positions],
        )

    def check_parts(self, parts: Sequence[Part]) -> None:
        """Refuse parts that a step could not update; where torch's operations differ by type, rehearse the step.

        Raises:
            RuntimeError: state without memory, or arrays of state that share memory.
        """
        for part in parts:
            if part.plain and not has_memory(part):
                raise RuntimeError(
                    f"the state of {part.names[0]} would have no memory: a mode of torch (FakeTensorMode, say) makes "
                    "tensors without numbers in place of usual ones; take the step outside of it"
                )
        if not self.old.keys().isdisjoint(self.stateful):
            check_state_apart([part for part in parts if part.plain])
        for part in parts:
            if part.place is not None and part.spec.rule.sees != "elements":
                for shard in part.shards:
                    check_rule(shard, part.spec)
            if not (part.plain and {p.dtype for p in part.params} <= COMMON_DTYPES):
                rehearse(part)

    def distribute(self, i: int, entry: dict[str, Any]) -> dict[str, Any]:
        """Return the entry of a distributed parameter as distributed tensors."""
        return self.shards[i].distribute(entry, self.stored[i].fields, self.state.get(self.flat[i]))


def _noise_streams(storage: Storage, groups: Sequence[Mapping[str, Any]], flat: Sequence[Tensor]) -> NDArray[np.uint64]:
    """Return the stream of rounding noise of each parameter, by its name or its position in the groups of all ranks."""
    params = [p for group in groups for p in group["params"]]
    numbers = dict(zip(map(id, params), range(len(params)), strict=True))
    if storage.noise == "names":
        names = [plain_name(name) for group in groups for name in _own_names(group)]
        named = [p for group in groups for p in group["params"][: len(_own_names(group))]]
        counts = Counter(names)
        numbers |= {id(p): number_of_name(n) for p, n in zip(named, names, strict=True) if counts[n] == 1}
    return streams(storage.seed, np.array([numbers[id(p)] for p in flat], dtype=np.int64))


def _own_names(group: Mapping[str, Any]) -> list[str]:
    """Return the names that the group has for its first parameters."""
    return [str(name) for name in group.get("param_names") or ()][: len(group["params"])]


def _find_shared_memory(kinds: Mapping[int, _PartKey], flat: Sequence[Tensor]) -> list[int]:
    """Return the positions of parameters that share memory with another: they must be updated one after the other."""
    plain = [i for i, kind in kinds.items() if kind.plain and flat[i].numel()]
    starts = np.array([flat[i].data_ptr() for i in plain], dtype=np.int64)
    lengths = np.array([extent(flat[i]) for i in plain], dtype=np.int64)
    return [plain[k] for k in find_overlaps(starts, starts + lengths)]


def _is_empty(entry: Any) -> bool:
    return isinstance(entry, dict) and not entry


def _check_parameters(flat: Sequence[Any], names: Sequence[str]) -> None:
    """Refuse objects in ``param_groups`` that are not tensors, and parameters that occur twice.

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

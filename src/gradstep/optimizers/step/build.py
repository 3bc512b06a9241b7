"""Build the table of an optimizer, and a step's batches with it, before a step changes anything."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gradstep.engines.base import LENGTH, ROW, Engine
from gradstep.engines.statistics import StepReport
from gradstep.engines.step import pause_garbage_collection
from gradstep.optimizers.arguments import parameter_names, plain_name
from gradstep.optimizers.checkpoint.matching import stored_in_groups, unnest_fields
from gradstep.optimizers.memory import (
    PLAIN,
    conform_gradient,
    extent,
    find_overlaps,
    holds_flat_shards,
    is_addressable,
    is_distributed,
    is_freed,
    is_symbolic_zero,
)
from gradstep.optimizers.sharded import Place, ShardedParameter, local_gradients
from gradstep.optimizers.state.arrays import complete_state
from gradstep.optimizers.state.check import check_entry
from gradstep.optimizers.state.storage import HEADER, Choice, Choices, Storage, element_of, make_zeros
from gradstep.optimizers.step.ranks import FlatShards, MeshRanks, check_flat_shards
from gradstep.optimizers.step.rehearsal import COMMON_DTYPES, rehearse
from gradstep.optimizers.step.sums import check_rule
from gradstep.optimizers.step.table import Part, Table, TorchBatch
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
) -> tuple[Table, list[TorchBatch]]:
    """Build a table, and return it with the batches of this step.

    Args:
        engine, storage: the user's choices.
        paged: the placement of paged state; None for state in memory.
        rules: one per group.
        groups, state: the optimizer's; ``state`` is not changed.
        zero: the ranks of the ``ZeroRedundancyOptimizer`` around this one; None without it.

    Raises:
        RuntimeError: a gradient, or state that was loaded or changed by hand, does not fit its parameter.
        TypeError: a parameter is not a tensor, or an entry of state not a dictionary.
        ValueError: the engine cannot serve a parameter, a parameter occurs twice, or a step count is invalid.
    """
    own = json.dumps(storage.header(type(rules[0]))) if rules else ""
    if any(group.get(HEADER, own) != own for group in groups):  # a loaded one, of which no load_state_dict() knows
        storage = stored_in_groups(type(rules[0]), storage, groups)
    with torch.inference_mode(mode=False), torch.no_grad():  # state outlives a step that is taken in inference mode
        table = build_table(engine, storage, paged, rules, groups, state, zero)
    batches = table.batches(rules, groups, state, state_seen=False)  # a new table has not put its state there yet
    if batches is None:
        raise RuntimeError("parameters or gradients are being changed by another thread while they are stepped")
    return table, batches


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


@pause_garbage_collection()
def build_table(
    engine: str,
    storage: Storage,
    paged: Placement | None,
    rules: Sequence[Rule],
    groups: Sequence[dict[str, Any]],
    state: defaultdict[Tensor, dict[str, Any]],
    zero: ZeroRanks | None,
) -> Table:
    """Find or create the state of every parameter with state or a gradient; arguments as in :func:`build_batches`."""
    groups = groups if zero is None else zero.describe(groups)
    names = list(chain.from_iterable(map(parameter_names, groups, range(len(groups)))))
    flat: list[Tensor] = list(chain.from_iterable(g["params"] for g in groups))
    _check_parameters(flat, names)
    sizes = [len(g["params"]) for g in groups]
    group_of = np.repeat(np.arange(len(groups)), sizes)
    shards = {i: ShardedParameter(p, names[i], {}) for i, p in enumerate(flat) if is_distributed(p)}
    shards_of_others = FlatShards() if zero is None and holds_flat_shards(groups) else None
    if shards_of_others is not None:
        check_flat_shards(storage, rules, groups)
    gradients = [p.grad for p in flat]
    old = {i: state[p] for i, p in enumerate(flat) if p in state and not _is_empty(state[p])}
    stateful = [i for i, g in enumerate(gradients) if g is not None or isinstance(old.get(i), dict)]
    starts = {"step": 0.0, **type(rules[0]).scalars} if rules else {"step": 0.0}

    choices = [Choices(engine, storage, rule, group) for rule, group in zip(rules, groups, strict=True)]
    memory = [shards[i].local if i in shards else p for i, p in enumerate(flat)]
    kinds: dict[int, _PartKey] = {}
    stored: dict[int, ParameterStorage] = {}
    key_of: dict[Any, tuple[Choice, _PartKey]] = {}  # holds each choice, so that no other choice gets its id
    for i in stateful:
        p, g, group = memory[i], gradients[i], group_of[i]
        if i in shards:
            g = local_gradients([shards[i]])[0]
        plain = is_addressable(p)
        if not plain and (is_freed(p) or is_symbolic_zero(p)):
            raise RuntimeError(
                f"{names[i]} has no memory for its {p.numel():,} elements, so there is nothing to update"
            )
        if g is not None:
            g = conform_gradient(p, g, names[i])
        choice = choices[group].of(flat[i], names[i], addressable=plain)
        stored[i], dtype = choice.stored, p.dtype if g is None else g.dtype
        if i in shards:
            shards[i] = ShardedParameter(shards[i].parameter, names[i], stored[i].collapsed)
        if i in old:
            if isinstance(old[i], dict):  # ZeroRedundancyOptimizer puts entries of a checkpoint into the state
                old[i] = unnest_fields(old[i])
            if i in shards:
                old[i] = shards[i].localize(old[i], stored[i].fields)
            check_entry(p, stored[i], rules[group], old[i], names[i])
        place = shards[i].place if i in shards else None
        alike = (id(choice), dtype, plain, place)
        if alike not in key_of:
            spec, fields = stored[i].spec(rules[group], element_of(dtype)), tuple(stored[i].fields)
            key_of[alike] = choice, _PartKey(choice.engine_and_reason[0], spec, fields, dtype, plain, -1, place)
        kinds[i] = key_of[alike][1]
    for i in _find_shared_memory(kinds, memory):
        kinds[i] = kinds[i]._replace(alone=i)
    members: defaultdict[_PartKey, list[int]] = defaultdict(list)
    for i, kind in kinds.items():
        members[kind].append(i)
    for kind in members:
        kind.engine.prepare(kind.spec)
    if paged is None:
        entries = [
            make_zeros(memory[i], stored[i].fields)
            if i not in old and stored[i].starts_as_zeros and not memory[i].is_complex()
            else complete_state(memory[i], stored[i], old.get(i, {}), names[i])
            for i in stateful
        ]
    else:
        present = [(names[i], flat[i], stored[i], old.get(i, {})) for i in stateful]
        entries = paged.complete_state(present, tuple(starts))
    entry_of = dict(zip(stateful, entries, strict=True))
    parts = [
        Part(
            engine=kind.engine,
            spec=kind.spec,
            members=np.array(positions),
            groups=group_of[positions],
            params=[memory[i] for i in positions],
            names=[names[i] for i in positions],
            fields=kind.fields,
            slots=[[entry_of[i][key] for i in positions] for key in kind.fields],
            dtype=kind.dtype,
            plain=kind.plain,
            shards=[] if kind.place is None else [shards[i] for i in positions],
        )
        for kind, positions in members.items()
    ]
    for part in parts:
        if part.plain and not _has_memory(part):
            raise RuntimeError(
                f"the state of {part.names[0]} would have no memory: a mode of torch (FakeTensorMode, say) makes "
                "tensors without numbers in place of usual ones; take the step outside of it"
            )
    if not old.keys().isdisjoint(stateful):
        _check_state_apart([part for part in parts if part.plain])
    for part in parts:
        if part.place is not None and not part.spec.rule.elementwise:
            for shard in part.shards:
                check_rule(shard, part.spec)
        if not (part.plain and {p.dtype for p in part.params} <= COMMON_DTYPES):
            rehearse(part)
    entries = [
        shards[i].distribute(entry, stored[i].fields, state.get(flat[i])) if i in shards else entry
        for i, entry in zip(stateful, entries, strict=True)
    ]
    if paged is not None:
        paged.storage = storage  # the seed of the noise is saved beside the state
    places = dict.fromkeys(shard.place for shard in shards.values() if shard.place.dims)
    return Table(
        parts,
        flat=flat,
        sizes=sizes,
        rules=rules,
        stateful=stateful,
        entries=entries,
        starts=starts,
        state=state,
        paged=paged,
        ranks=MeshRanks(list(places), names) if places else zero or shards_of_others,
        streams=_noise_streams(storage, groups if zero is None else zero.groups, flat)
        if any(kind.spec.noise for kind in members)
        else None,
    )


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


def _has_memory(part: Part) -> bool:
    """Return whether all state of a part is in plain tensors whose elements have addresses."""
    missing = (part.table[:, 1:LENGTH] == 0) & (part.table[:, LENGTH:ROW] != 0)
    return PLAIN.issuperset(map(type, chain(*part.slots))) and not missing.any()


def _check_state_apart(parts: Sequence[Part]) -> None:
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

"""The memory of one rank of a run: summed over its parts of the parameters, then paged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import final

from gradstep.planner.options import Choice
from gradstep.planner.parameters import Model, ParameterSpec
from gradstep.planner.request import Request
from gradstep.planner.sharding import Ranks, cut_matrices, deal_out, shard_parameters, shard_rows
from gradstep.planner.state import SCALAR, rounding_copies, slot_bytes
from gradstep.planner.temporaries import temporaries
from gradstep.rules import Rule

GATHERED = "gathered"
"""The item of the weights that are gathered from all ranks for a while."""


@final
@dataclass(frozen=True)
class MemoryItem:
    """One kind of memory of a rank.

    Attributes:
        name: its name; for state the name of the slot.
        kind: ``"weights"``, ``"gradients"``, ``"state"`` or ``"extra"``.
        nbytes: its bytes.
        pageable: whether it is outside the device when state is paged.
        note: a remark about the figure.
    """

    name: str
    kind: str
    nbytes: int
    pageable: bool = False
    note: str = ""


def items(request: Request, choice: Choice) -> Iterator[MemoryItem]:
    """Yield the memory of a rank, kind by kind, before paging."""
    ranks, rule, sharding = request.ranks, request.rule, choice.sharding
    whole = request.model.cast(choice.params)
    cut = cut_matrices(whole, ranks)
    model = shard_parameters(cut, sharding, ranks)
    yield MemoryItem("weights", "weights", sum(p.local_nbytes for p in model.parameters))
    gradients = sum(p.local_nbytes_in(choice.gradients) for p in model.trainable)
    yield MemoryItem("gradients", "gradients", gradients)
    own = _own_parameters(model, rule, choice, ranks)
    for name, nbytes in _total(_slots(p, rule, choice.state) for p in own).items():
        note = "of each block of codes" if name == "scales" else ""
        yield MemoryItem(name, "state", nbytes, pageable=True, note=note)
    for name in ("step", *type(rule).scalars):
        yield MemoryItem(name, "state", SCALAR * len(own))
    for name, nbytes in _total(rounding_copies(p, choice.rounding) for p in own).items():
        yield MemoryItem(name, "state", nbytes, pageable=True, note="of weights in half precision")
    likely = cut_matrices(replace(whole, parameters=whole.largest), ranks) if whole.counted else cut
    large = shard_parameters(likely, sharding, ranks).trainable if whole.counted else own
    needed, why = temporaries(large, rule, choice.state, engine=request.engine, gpus=request.gpus)
    if needed and model.counted:
        why += " that a model of this size is likely to have"
    yield MemoryItem("temporaries", "extra", needed, note=why)
    if sharding == "zero2":
        yield MemoryItem(GATHERED, "extra", sum(p.local_nbytes for p in cut.parameters), note="all weights, made whole")
    elif sharding == "fsdp2":
        block = _largest_block(likely)
        yield MemoryItem(GATHERED, "extra", block, note="an estimate: the largest block of layers, made whole")
    if request.activations is not None:
        yield MemoryItem("activations", "extra", request.activations, note="as given")


def checkpoint_bytes(request: Request, choice: Choice) -> int:
    """Return the bytes of weights and state of the whole model."""
    whole = items(replace(request, ranks=Ranks()), replace(choice, sharding="ddp"))
    return sum(item.nbytes for item in whole if item.kind in ("weights", "state"))


def _own_parameters(model: Model, rule: Rule, choice: Choice, ranks: Ranks) -> Sequence[ParameterSpec]:
    """Return the parameters of which a rank keeps state: all that are trained, or those that ZeRO deals out to it."""
    trained = model.trainable
    if choice.sharding != "zero1":
        return trained
    if model.counted:
        return tuple(shard_rows(p, ranks.data, 0, evenly=True) for p in trained)
    owners = deal_out([p.numel for p in trained], ranks.data)
    rank = ranks.rank
    if rank is None:
        kept = [0] * ranks.data
        for p, owner in zip(trained, owners, strict=True):
            kept[owner] += sum(_slots(p, rule, choice.state).values())
        rank = kept.index(max(kept))
    return tuple(p for p, owner in zip(trained, owners, strict=True) if owner == rank)


def _slots(p: ParameterSpec, rule: Rule, state: str) -> dict[str, int]:
    """Return the bytes of each slot by name, and of all scales together."""
    slots = {slot.name: slot_bytes(p, slot, state) for slot in rule.slots(len(p.shape))}
    scales = sum(scale_bytes for _, scale_bytes in slots.values())
    return {name: values for name, (values, _) in slots.items()} | ({"scales": scales} if scales else {})


def _total(parts: Iterable[dict[str, int]]) -> dict[str, int]:
    """Return the sums by name, with the scales at the end."""
    sums: dict[str, int] = {}
    for part in parts:
        for name, nbytes in part.items():
            sums[name] = sums.get(name, 0) + nbytes
    return dict(sorted(sums.items(), key=lambda item: item[0] == "scales"))


def _largest_block(model: Model) -> int:
    """Return the bytes of the largest block: parameters whose names agree up to a number ("model.layers.3")."""
    blocks: Counter[str] = Counter()
    for p in model.parameters:
        parts = p.name.split(".")
        number = next((i for i, part in enumerate(parts) if part.isdigit()), len(parts) - 1)
        blocks[".".join(parts[: number + 1])] += p.local_nbytes
    return max(blocks.values())


@final
@dataclass(frozen=True)
class MemoryRow:
    """One kind of memory of a plan, in its place.

    Attributes:
        name: its name; for state the name of the slot.
        kind: ``"weights"``, ``"gradients"``, ``"state"`` or ``"extra"``.
        nbytes: its bytes; with several ranks, those of one.
        place: ``"device"`` (the GPU; for a plan on the CPU the machine's memory), ``"host"`` or ``"disk"``.
        note: a remark about the figure.
    """

    name: str
    kind: str
    nbytes: int
    place: str = "device"
    note: str = ""


def rows(request: Request, choice: Choice, whole: Sequence[MemoryItem]) -> Iterator[MemoryRow]:
    """Yield the memory of a combination in its places.

    Args:
        request: the arguments of the plan.
        choice: the combination.
        whole: the :func:`items` of both.
    """
    outside = "host" if request.gpus else "disk"
    paged_bytes = 0
    for item in whole:
        is_paged = bool(choice.paged) and item.pageable
        paged_bytes += item.nbytes if is_paged else 0
        yield MemoryRow(item.name, item.kind, item.nbytes, outside if is_paged else "device", item.note)
    if choice.paged:
        yield MemoryRow("pages in memory", "extra", min(request.pages, paged_bytes))

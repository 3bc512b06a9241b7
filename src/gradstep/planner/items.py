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


PAGEABLE = "device, or outside if state is paged"
"""The place of memory until :func:`place_rows` decides about it."""


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


def rows(request: Request, choice: Choice) -> Iterator[MemoryRow]:
    """Yield the memory of a rank, kind by kind, before paging."""
    ranks, rule, sharding = request.ranks, request.rule, choice.sharding
    whole = request.model.cast(choice.params)
    cut = cut_matrices(whole, ranks)
    model = shard_parameters(cut, sharding, ranks)
    yield MemoryRow("weights", "weights", sum(p.local_nbytes() for p in model.parameters))
    gradients = sum(p.local_nbytes(choice.gradients) for p in model.trainable)
    yield MemoryRow("gradients", "gradients", gradients)
    own = _own_parameters(model, rule, choice, ranks)
    for name, nbytes in _total(_slots(p, rule, choice.state) for p in own).items():
        note = "of each block of codes" if name == "scales" else ""
        yield MemoryRow(name, "state", nbytes, PAGEABLE, note)
    for name in ("step", *type(rule).scalars):
        yield MemoryRow(name, "state", SCALAR * len(own))
    for name, nbytes in _total(rounding_copies(p, choice.rounding) for p in own).items():
        yield MemoryRow(name, "state", nbytes, PAGEABLE, "of weights in half precision")
    likely = cut_matrices(replace(whole, parameters=whole.largest), ranks) if whole.counted else cut
    large = shard_parameters(likely, sharding, ranks).trainable if whole.counted else own
    needed, why = temporaries(large, rule, choice.state, engine=request.engine, gpus=request.gpus)
    if needed and model.counted:
        why += " that a model of this size is likely to have"
    yield MemoryRow("temporaries", "extra", needed, note=why)
    if sharding == "zero2":
        yield MemoryRow(
            GATHERED, "extra", sum(p.local_nbytes() for p in cut.parameters), note="all weights, made whole"
        )
    elif sharding == "fsdp2":
        block = _largest_block(likely)
        yield MemoryRow(GATHERED, "extra", block, note="an estimate: the largest block of layers, made whole")
    if request.activations is not None:
        yield MemoryRow("activations", "extra", request.activations, note="as given")


def checkpoint_bytes(request: Request, choice: Choice) -> int:
    """Return the bytes of weights and state of the whole model."""
    whole = rows(replace(request, ranks=Ranks()), replace(choice, sharding="ddp"))
    return sum(row.nbytes for row in whole if row.kind in ("weights", "state"))


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
        blocks[".".join(parts[: number + 1])] += p.local_nbytes()
    return max(blocks.values())


def place_rows(request: Request, choice: Choice, resident: Iterable[MemoryRow]) -> Iterator[MemoryRow]:
    """Yield the :func:`rows` of a combination in their places."""
    outside = ("host" if request.gpus else "disk") if choice.paged else "device"
    paged_bytes = 0
    for row in resident:
        if row.place == PAGEABLE:
            paged_bytes += row.nbytes
            row = replace(row, place=outside)
        yield row
    if choice.paged:
        yield MemoryRow("pages in memory", "extra", min(request.pages, paged_bytes))

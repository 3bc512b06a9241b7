"""The memory of a run: summed over the whole model, then sharded over the devices and paged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import final

from gradstep.planner.options import SHARDINGS, Choice
from gradstep.planner.parameters import ParameterSpec
from gradstep.planner.request import Request
from gradstep.planner.state import SCALAR, rounding_copies, slot_bytes
from gradstep.planner.temporaries import temporaries
from gradstep.rules import Rule

GATHERED = "gathered block"


@final
@dataclass(frozen=True)
class MemoryItem:
    """One kind of memory of the whole model.

    Attributes:
        name: its name; for state the name of the slot.
        kind: ``"weights"``, ``"gradients"``, ``"state"`` or ``"extra"``.
        nbytes: its bytes.
        sharding: the first sharding that divides it over the GPUs; empty if none does.
        pageable: whether it is outside the device when state is paged.
        note: a remark about the figure.
    """

    name: str
    kind: str
    nbytes: int
    sharding: str = ""
    pageable: bool = False
    note: str = ""


def items(request: Request, choice: Choice) -> Iterator[MemoryItem]:
    """Yield the memory of a run, kind by kind, before paging and sharding."""
    model, rule = request.model.cast(choice.params), request.rule
    trained = model.trainable
    yield MemoryItem("weights", "weights", sum(p.nbytes for p in model.parameters), sharding="weights")
    yield MemoryItem(
        "gradients", "gradients", sum(p.cast(choice.gradients).nbytes for p in trained), sharding="gradients"
    )
    for name, nbytes in _total(_slots(p, rule, choice.state) for p in trained).items():
        note = "of each block of codes" if name == "scales" else ""
        yield MemoryItem(name, "state", nbytes, sharding="state", pageable=True, note=note)
    for name in ("step", *type(rule).scalars):
        yield MemoryItem(name, "state", SCALAR * len(trained))
    for name, nbytes in _total(rounding_copies(p, choice.rounding) for p in trained).items():
        yield MemoryItem(name, "state", nbytes, sharding="state", pageable=True, note="of weights in half precision")
    large = [p for p in model.largest if p.trainable]
    needed, why = temporaries(large, rule, choice.state, engine=request.engine, gpus=request.gpus)
    if needed and model.counted:
        why += " that a model of this size is likely to have"
    yield MemoryItem("temporaries", "extra", needed, sharding="weights", note=why)
    block = _largest_block(model.largest)
    yield MemoryItem(GATHERED, "extra", block, note="an estimate: the largest block of layers, made whole")
    if request.activations is not None:
        yield MemoryItem("activations", "extra", request.activations, note="as given")


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


def _largest_block(parameters: Sequence[ParameterSpec]) -> int:
    """Return the bytes of the largest block: parameters whose names agree up to a number ("model.layers.3")."""
    blocks: Counter[str] = Counter()
    for p in parameters:
        parts = p.name.split(".")
        number = next((i for i, part in enumerate(parts) if part.isdigit()), len(parts) - 1)
        blocks[".".join(parts[: number + 1])] += p.nbytes
    return max(blocks.values())


@final
@dataclass(frozen=True)
class MemoryRow:
    """One kind of memory of a plan, in its place.

    Attributes:
        name: its name; for state the name of the slot.
        kind: ``"weights"``, ``"gradients"``, ``"state"`` or ``"extra"``.
        nbytes: its bytes; with several GPUs, on each.
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
    stage = SHARDINGS.index(choice.sharded)
    outside = "host" if request.gpus else "disk"
    paged_bytes = 0
    for item in whole:
        if item.name == GATHERED and choice.sharded != "weights":
            continue
        is_sharded = bool(item.sharding) and SHARDINGS.index(item.sharding) <= stage
        nbytes = -(-item.nbytes // request.gpus) if is_sharded else item.nbytes
        is_paged = choice.paged and item.pageable
        paged_bytes += nbytes if is_paged else 0
        yield MemoryRow(item.name, item.kind, nbytes, outside if is_paged else "device", item.note)
    if choice.paged:
        yield MemoryRow("pages in memory", "extra", min(request.pages, paged_bytes))

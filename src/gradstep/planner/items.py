"""Everything a run keeps: added up over the whole model, then dealt out over devices and paged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import final

from gradstep.planner.options import SHARDINGS, Choice
from gradstep.planner.parameters import Parameter
from gradstep.planner.request import Request
from gradstep.planner.state import SCALAR, rounding_copies, slot_bytes
from gradstep.planner.temporaries import temporaries
from gradstep.rules import Rule

GATHERED = "gathered block"


@final
@dataclass(frozen=True)
class Item:
    """One kind of memory of the whole model.

    Attributes:
        name: what is kept; a slot of state by its own name.
        kind: ``"weights"``, ``"gradients"``, ``"state"`` or ``"extra"``.
        nbytes: how much of it.
        dealt: with which sharding it is dealt out over the GPUs; empty if it never is.
        pageable: whether it leaves the device when state is paged.
        note: what to know about the figure.
    """

    name: str
    kind: str
    nbytes: int
    dealt: str = ""
    pageable: bool = False
    note: str = ""


def items(request: Request, choice: Choice) -> Iterator[Item]:
    """Return what is kept, kind by kind, before paging and sharding."""
    model, rule = request.model.cast(choice.params), request.rule
    trained = model.trainable
    yield Item("weights", "weights", sum(p.nbytes for p in model.parameters), dealt="weights")
    yield Item("gradients", "gradients", sum(p.cast(choice.gradients).nbytes for p in trained), dealt="gradients")
    for name, nbytes in _total(_slots(p, rule, choice.state) for p in trained).items():
        note = "of each block of 8-bit codes" if name == "scales" else ""
        yield Item(name, "state", nbytes, dealt="state", pageable=True, note=note)
    for name in ("step", *type(rule).scalars):
        yield Item(name, "state", SCALAR * len(trained))
    for name, nbytes in _total(rounding_copies(p, choice.rounding) for p in trained).items():
        yield Item(name, "state", nbytes, dealt="state", pageable=True, note="of weights in half precision")
    large = [p for p in model.largest if p.trainable]
    needed, why = temporaries(large, rule, choice.state, engine=request.engine, gpus=request.gpus)
    if needed and model.counted:
        why += " that a model of this size is likely to have"
    yield Item("temporaries", "extra", needed, dealt="weights", note=why)
    block = _largest_block(model.largest)
    yield Item(GATHERED, "extra", block, note="an estimate: the largest block of layers, made whole")
    if request.activations is not None:
        yield Item("activations", "extra", request.activations, note="as given")


def _slots(p: Parameter, rule: Rule, state: str) -> dict[str, int]:
    """Bytes of each slot by its name, and of all scales together."""
    found = {slot.name: slot_bytes(p, slot, state) for slot in rule.slots(len(p.shape))}
    scales = sum(extra for _, extra in found.values())
    return {name: values for name, (values, _) in found.items()} | ({"scales": scales} if scales else {})


def _total(parts: Iterable[dict[str, int]]) -> dict[str, int]:
    """The sums by name, with the scales at the end."""
    sums: dict[str, int] = {}
    for part in parts:
        for name, nbytes in part.items():
            sums[name] = sums.get(name, 0) + nbytes
    return dict(sorted(sums.items(), key=lambda item: item[0] == "scales"))


def _largest_block(parameters: Sequence[Parameter]) -> int:
    """Bytes of the parameters whose names agree up to their first number ("model.layers.3"), at their largest."""
    blocks: Counter[str] = Counter()
    for p in parameters:
        parts = p.name.split(".")
        number = next((i for i, part in enumerate(parts) if part.isdigit()), len(parts) - 1)
        blocks[".".join(parts[: number + 1])] += p.nbytes
    return max(blocks.values())


@final
@dataclass(frozen=True)
class Row:
    """One kind of memory.

    Attributes:
        name: what is kept; a slot of state by its own name.
        kind: ``"weights"``, ``"gradients"``, ``"state"`` or ``"extra"``.
        nbytes: how much of it, on each GPU where there are several.
        place: ``"device"`` (the GPU; for a plan on the CPU the machine's memory), ``"host"`` or ``"disk"``.
        note: what to know about the figure.
    """

    name: str
    kind: str
    nbytes: int
    place: str = "device"
    note: str = ""


def rows(request: Request, choice: Choice, whole: Sequence[Item]) -> Iterator[Row]:
    """Return what is kept in which place.

    Args:
        request: what is asked about.
        choice: how things are stored.
        whole: the :func:`items` of both.
    """
    stage = SHARDINGS.index(choice.sharded)
    outside = "host" if request.gpus else "disk"
    paged = 0
    for item in whole:
        if item.name == GATHERED and choice.sharded != "weights":
            continue
        dealt = bool(item.dealt) and SHARDINGS.index(item.dealt) <= stage
        nbytes = -(-item.nbytes // request.gpus) if dealt else item.nbytes
        leaves = choice.paged and item.pageable
        paged += nbytes if leaves else 0
        yield Row(item.name, item.kind, nbytes, outside if leaves else "device", item.note)
    if choice.paged:
        yield Row("pages in memory", "extra", min(request.pages, paged))

"""The memory of one rank of a run: summed over its parts of the parameters, then paged; state and temporaries below."""

import tracemalloc
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from math import prod
from types import SimpleNamespace
from typing import final

import numpy as np

from gradstep.planner.parameters import Model, ParameterSpec
from gradstep.planner.request import Combination, Request
from gradstep.planner.sharding import BY_ROWS, PlannedRanks, cut_matrices, deal_out, shard_parameters, shard_rows
from gradstep.rules import Rule, Slot, State
from gradstep.storage.codecs import Codec
from gradstep.storage.elements import ELEMENTS
from gradstep.storage.policy import is_embedding, parameter_codec, slot_codec, stays_float32

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


def list_rows(request: Request, choice: Combination) -> Iterator[MemoryRow]:
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
    elif sharding in BY_ROWS:
        block = _largest_block(likely)
        yield MemoryRow(GATHERED, "extra", block, note="an estimate: the largest block of layers, made whole")
    if request.activations is not None:
        yield MemoryRow("activations", "extra", request.activations, note="as given")


def checkpoint_bytes(request: Request, choice: Combination) -> int:
    """Return the bytes of weights and state of the whole model."""
    whole = list_rows(replace(request, ranks=PlannedRanks()), replace(choice, sharding="ddp"))
    return sum(row.nbytes for row in whole if row.kind in ("weights", "state"))


def _own_parameters(model: Model, rule: Rule, choice: Combination, ranks: PlannedRanks) -> Sequence[ParameterSpec]:
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


def place_rows(request: Request, choice: Combination, resident: Iterable[MemoryRow]) -> Iterator[MemoryRow]:
    """Yield the :func:`list_rows` of a combination in their places."""
    outside = ("host" if request.gpus else "disk") if choice.paged else "device"
    paged_bytes = 0
    for row in resident:
        if row.place == PAGEABLE:
            paged_bytes += row.nbytes
            row = replace(row, place=outside)
        yield row
    if choice.paged:
        yield MemoryRow("pages in memory", "extra", min(request.pages, paged_bytes))


# -- bytes of state ---------------------------------------------------------------------------------------------------

SCALAR = 4
"""Bytes of ``step``, and of each other number stored once per parameter."""


def stays_full(p: ParameterSpec) -> str | None:
    """Return why the state of a parameter stays in full precision under every choice; None if it does not.

    >>> stays_full(ParameterSpec("h.0.ln_1.weight", (768,)))
    'a norm or a bias'
    >>> stays_full(ParameterSpec("h.0.attn.c_attn.weight", (768, 2304)))
    """
    if p.real_dtype not in ("float32", "bfloat16", "float16") or p.pieces > 1:
        return f"a {p.dtype} parameter"
    embedding = is_embedding(p.name) if p.embedding is None else p.embedding
    return stays_float32(p.numel, len(p.shape), embedding=embedding)


def slot_bytes(p: ParameterSpec, slot: Slot, state: str) -> tuple[int, int]:
    """Return the bytes of the values, and of the scales, of one slot, for the part of the parameter that a rank keeps.

    >>> slot_bytes(ParameterSpec("w", (1000, 257)), Slot("exp_avg"), "8bit")  # 1,004 blocks, the last of which is begun
    (257000, 1004)
    """
    codec = _codec(p, slot, state)
    elements = p.pieces * prod(slot.shape(p.part))
    codes = codec.fields[0]
    values = codes.length(elements) * codes.element.itemsize
    return values, codec.nbytes(elements) - values


def rounding_copies(p: ParameterSpec, rounding: str) -> dict[str, int]:
    """Return the bytes that a rounding keeps beside the weights, by their key in the state.

    >>> rounding_copies(ParameterSpec("w", (8, 3)).cast("bfloat16"), "kahan")
    {'kahan_comp': 48}
    """
    if not p.is_half:
        return {}
    extra = parameter_codec(rounding, ELEMENTS[p.dtype]).fields[1:]
    return {field.suffix: field.length(prod(p.part)) * field.element.itemsize for field in extra}


def _codec(p: ParameterSpec, slot: Slot, state: str) -> Codec:
    # Means of rows and columns take little memory, and every element of the update depends on them.
    plain = stays_full(p) is not None or slot.exact or slot.collapsed is not None
    element = ELEMENTS["float64" if p.real_dtype == "float64" else "float32"]
    return slot_codec("float32" if plain else state, element, signed=slot.signed)


# -- temporaries ------------------------------------------------------------------------------------------------------

FOREACH_ELEMENTS = 2**22
"""The number of elements that the foreach engine computes together on a GPU."""

SIDE = 128
"""The side of the square matrix whose update is measured."""


def temporaries(
    trainable: Sequence[ParameterSpec], rule: Rule, state: str, *, engine: str, gpus: int
) -> tuple[int, str]:
    """Return the temporary bytes of an update, and the reason for them.

    The fused and the compiled engine process a parameter piece by piece; the foreach engine makes arrays of a few
    million elements, the eager one of whole tensors, one parameter after the other. ``"auto"`` is fused on the CPU, and
    foreach on a GPU, if the rule sees elements; or means, on the CPU; else eager.
    """
    if engine == "auto":
        fused = rule.sees in (("elements",) if gpus else ("elements", "means"))
        engine = "eager" if not fused else "foreach" if gpus else "fused"
    if engine in ("fused", "compiled"):
        return 0, f"the {engine} engine makes none"

    def values(p: ParameterSpec) -> int:
        """Return the bytes that a parameter's live and decoded numbers, at least float32, take for each element."""
        slots = rule.slots(len(p.shape))
        decoded = (2 if p.is_half else 0) + (len(slots) if state != "float32" and stays_full(p) is None else 0)
        copied = 2 + len(slots) if engine == "foreach" else 0  # small parameters are copied into one array
        return (live_values(rule, len(p.shape)) + decoded + copied) * max(4, p.itemsize)

    if engine == "foreach":
        together = min(FOREACH_ELEMENTS, sum(prod(p.part) for p in trainable))
        return max(map(values, trainable), default=0) * together, f"an estimate: {together:,} elements at a time"
    largest = max((values(p) * prod(p.part) for p in trainable), default=0)
    return largest, "an estimate: the eager engine at the largest parameter"


@cache
def live_values(rule: Rule, ndim: int) -> int:
    """Measure how many new values per element an update has in memory at once, by running it on a small tensor.

    >>> from gradstep.rules import SGD
    >>> live_values(SGD(), 2)  # the scaled gradient, the decayed one, the step
    3
    """
    shape = (SIDE, SIDE) if ndim > 1 else (SIDE * SIDE,)
    p, g = np.ones(shape, np.float32), np.ones(shape, np.float32)
    slots = {s.name: np.full(s.shape(shape), s.fill, np.float32) for s in rule.slots(len(shape))}
    c = SimpleNamespace(**{k: np.float32(v) for k, v in rule.coefficients(1, **type(rule).scalars).items()})
    running = tracemalloc.is_tracing()
    if not running:
        tracemalloc.start()
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    with np.errstate(all="ignore"):
        scaled = g * np.float32(1)  # stays in memory until the update is over, as in the engine
        new = rule.update(p, scaled, State(**slots), c)
    peak = tracemalloc.get_traced_memory()[1] - before
    if not running:
        tracemalloc.stop()
    return round(peak / int(new.nbytes))

"""Bytes of state: the only file of the planner that asks codecs for their sizes."""

from __future__ import annotations

from math import prod

from gradstep.planner.parameters import ParameterSpec
from gradstep.rules import Slot
from gradstep.storage.codecs import Codec
from gradstep.storage.elements import ELEMENTS
from gradstep.storage.policy import is_embedding, parameter_codec, slot_codec, stays_float32

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
    plain = stays_full(p) is not None or slot.collapsed is not None
    element = ELEMENTS["float64" if p.real_dtype == "float64" else "float32"]
    return slot_codec("float32" if plain else state, element, signed=slot.signed)

"""What in a checkpoint does not fit a parameter, in words; and what storing it as the optimizer does would lose."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from gradstep.optimizers.storage import Stored
from gradstep.rules import Rule, Slot
from gradstep.storage.codecs import BLOCK, Blocks, Codec
from gradstep.storage.elements import ELEMENTS
from gradstep.storage.policy import ROUNDINGS, parameter_codec

OF_ROUNDING = frozenset(
    field.suffix for rounding in ROUNDINGS for field in parameter_codec(rounding, ELEMENTS["bfloat16"]).fields[1:]
)
"""The keys of what rounding keeps: ``kahan_comp``, ``master_param``."""


def misfits(p: Tensor, stored: Stored, rule: type[Rule], entry: Mapping[str, Any], *, strict: bool) -> Iterator[str]:
    """What is missing, unexpected, or of another shape, whatever way it is stored.

    An entry without any slot fits: slots that are not there yet begin when they are first needed (as when SGD is
    given a momentum in mid-run). An entry with *some* of them does not.

    Args:
        p: the parameter.
        stored: how the optimizer stores it.
        rule: the optimizer's.
        entry: its state in the checkpoint.
        strict: whether keys that the rule does not know are refused, and not somebody's own.
    """
    held = {key: value for key, value in entry.items() if value is not None}
    known = {"step", *rule.scalars, *OF_ROUNDING, *(key for s in stored.slots for key in (s.name, scale_of(s)))}
    unexpected = [key for key in held if key not in known] if strict else []
    if unexpected or any(slot.name in held for slot in stored.slots):
        yield from (f"{slot.name} is missing" for slot in stored.slots if slot.name not in held)
    yield from (f"{key} is unexpected" for key in unexpected)
    for slot in stored.slots:
        if slot.name in held:
            yield from _misfit(slot, tuple(p.shape), held)
    for key in OF_ROUNDING & held.keys():
        yield from _other_shape(key, held[key], tuple(p.shape))


def _misfit(slot: Slot, shape: tuple[int, ...], held: Mapping[str, Any]) -> Iterator[str]:
    value, scale = held[slot.name], held.get(scale_of(slot))
    yield from _other_shape(slot.name, value, slot.shape(shape))
    if isinstance(value, Tensor) and value.dtype == torch.uint8:
        if scale is None:
            yield f"{scale_of(slot)} is missing, without which {slot.name} cannot be decoded"
        else:
            yield from _other_shape(scale_of(slot), scale, (-(-value.numel() // BLOCK),))


def _other_shape(key: str, value: Any, shape: tuple[int, ...]) -> Iterator[str]:
    if not isinstance(value, Tensor):
        yield f"{key} is {value!r}, and no tensor"
    elif tuple(value.shape) != shape:
        yield f"{key} has shape {tuple(value.shape)} in the state dict, but must have {shape}"


def losses(p: Tensor, stored: Stored, entry: Mapping[str, Any]) -> Iterator[str]:
    """What of an entry that fits could not be stored as the optimizer does without being rounded."""
    for slot, codec in zip(stored.slots, stored.codecs, strict=True):
        value = entry.get(slot.name)
        if value is not None and not _is_held_by(codec, value, p):
            yield f"{slot.name} is stored as {storage_name(value)}, and here as {_target_name(codec, value, p)}"
    own = {field.suffix for field in stored.parameter.fields[1:]}
    for key in OF_ROUNDING - own:
        if entry.get(key) is not None:
            yield f"{key} would be dropped: the parameter is stored as {stored.parameter.name} here"


def _is_held_by(codec: Codec, value: Tensor, p: Tensor) -> bool:
    """Whether a codec has room for every number of a slot as it is stored in a checkpoint."""
    coded = value.dtype == torch.uint8
    if isinstance(codec, Blocks):
        return coded and same_order(value, torch.empty_like(p, device="meta"))
    target: torch.dtype = getattr(torch, codec.fields[0].element.name)
    target = target.to_complex() if p.is_complex() else target
    # A code has 3 places of mantissa and an exponent of float32's range: each is a bfloat16 number.
    source = torch.bfloat16 if coded else value.dtype
    return source == target or torch.promote_types(source, target) == target


def same_order(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors of one shape have their elements in the same order in memory, where blocks are cut.

    >>> a = torch.zeros(2, 3)
    >>> same_order(a, torch.ones(2, 3)), same_order(a, torch.ones(3, 2).t())
    (True, False)
    """
    return a.numel() < 2 or [s for s, n in zip(a.stride(), a.shape, strict=True) if n > 1] == [
        s for s, n in zip(b.stride(), b.shape, strict=True) if n > 1
    ]


def _target_name(codec: Codec, value: Tensor, p: Tensor) -> str:
    cut = isinstance(codec, Blocks) and value.dtype == torch.uint8
    return "8bit blocks in another order of memory" if cut else codec.name


def storage_name(value: Tensor) -> str:
    """How the numbers of a slot are stored, as users call it.

    >>> storage_name(torch.zeros(1)), storage_name(torch.zeros(1, dtype=torch.uint8))
    ('float32', '8bit')
    """
    return "8bit" if value.dtype == torch.uint8 else str(value.dtype).removeprefix("torch.")


def scale_of(slot: Slot) -> str:
    """The key of the scales of a slot in 8 bits."""
    return f"{slot.name}_scale"

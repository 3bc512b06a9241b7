"""The state of one parameter: what is created, and what is made of a state that was loaded."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gradstep.engines.eager import ARRAYS
from gradstep.optimizers.storage import Stored
from gradstep.rules import Slot
from gradstep.storage.codecs import Blocks, Codec, Elementwise, Field
from gradstep.storage.noise import BITS

HALFWAY = 1 << BITS - 1
"""Noise that makes rounding at random round to nearest."""


def slot_dtype(p: Tensor) -> torch.dtype:
    """The type that the values of a slot have: float32 for half precision, else the parameter's own.

    A deviation from torch.optim, which keeps bfloat16 moments for a bfloat16 parameter, where 0.999 rounds to 1.
    """
    return {
        torch.float16: torch.float32,
        torch.bfloat16: torch.float32,
        torch.complex32: torch.complex64,
    }.get(p.dtype, p.dtype)


def filled(p: Tensor, stored: Stored, old: dict[str, Any], name: str) -> dict[str, Any]:
    """The old state with every missing array created and every other brought into the parameter's layout.

    Raises:
        RuntimeError: an array of another shape than the parameter needs.
        TypeError: something that is no tensor.
    """
    entry = dict(old)
    if "step" not in entry and any(entry.get(slot.name) is not None for slot in stored.slots):
        entry["step"] = 1.0  # torch's SGD does not count: a buffer that exists has had its first step
    for field in stored.parameter.fields[1:]:
        dtype = getattr(torch, field.element.name)
        fresh = torch.empty_like(p, dtype=dtype, memory_format=torch.preserve_format)
        entry[field.suffix] = _fitting(
            entry.get(field.suffix),
            fresh.copy_(p) if field.element.itemsize > p.element_size() else fresh.zero_(),
            name,
        )
    for slot, codec in zip(stored.slots, stored.codecs, strict=True):
        entry.update(_slot(p, slot, codec, entry, name))
    return entry


def _slot(p: Tensor, slot: Slot, codec: Codec, entry: dict[str, Any], name: str) -> dict[str, Tensor]:
    """The arrays of one slot."""
    value, scale = entry.get(slot.name), entry.get(f"{slot.name}_scale")
    if value is not None and not isinstance(value, Tensor):
        raise TypeError(f"{slot.name} of {name} must be a tensor of shape {tuple(p.shape)}, but is {value!r}")
    shape = slot.shape(tuple(p.shape))
    if value is not None and tuple(value.shape) != shape:
        raise RuntimeError(f"{slot.name} of {name} has shape {tuple(value.shape)}, but must have {shape}")
    if value is None:
        return _encoded(slot, codec, _fresh(p, slot))
    coded = value.dtype == torch.uint8
    if coded and not isinstance(scale, Tensor):
        raise RuntimeError(f"{slot.name} of {name} is 8-bit codes without their {slot.name}_scale")
    like = _fresh(p, slot)
    if isinstance(codec, Blocks):
        if coded and scale is not None and value.stride() == like.stride() and value.device == p.device:
            return {slot.name: value, f"{slot.name}_scale": scale.to(p.device)}
        return _encoded(slot, codec, like.copy_(decoded(value, scale, signed=slot.signed)))
    assert isinstance(codec, Elementwise)
    like = like.to(getattr(torch, codec.fields[0].element.name)) if not like.is_complex() else like
    if not coded and (value.dtype, value.device, value.stride()) == (like.dtype, like.device, like.stride()):
        return {slot.name: value}
    return {slot.name: like.copy_(decoded(value, scale, signed=slot.signed))}


def _fitting(old: Any, fresh: Tensor, name: str) -> Tensor:
    if old is None:
        return fresh
    if not isinstance(old, Tensor) or old.shape != fresh.shape:
        raise RuntimeError(f"the compensation or master copy of {name} must be a tensor of shape {tuple(fresh.shape)}")
    same = (old.dtype, old.device, old.stride()) == (fresh.dtype, fresh.device, fresh.stride())
    return old if same else fresh.copy_(old)


def _fresh(p: Tensor, slot: Slot) -> Tensor:
    """A slot's values before the first step, in the parameter's layout of memory."""
    if slot.collapsed is None:
        # A complex number is a pair of real ones, and each starts with the same.
        fill = complex(slot.fill, slot.fill) if p.is_complex() else slot.fill
        return torch.full_like(p, fill, dtype=slot_dtype(p), memory_format=torch.preserve_format)
    return torch.full(slot.shape(tuple(p.shape)), slot.fill, dtype=slot_dtype(p), device=p.device)


def _encoded(slot: Slot, codec: Codec, value: Tensor) -> dict[str, Tensor]:
    """The arrays of a slot, rounded to nearest."""
    if value.is_complex():
        return {slot.name: value}
    noise = torch.full_like(value, HALFWAY, dtype=torch.int32) if codec.noisy else None
    arrays = ARRAYS.codes(codec, value, noise, value)
    names = [f"{slot.name}_{field.suffix}" if field.suffix else slot.name for field in codec.fields]
    return {key: _laid_out(array, value, field) for key, array, field in zip(names, arrays, codec.fields, strict=True)}


def _laid_out(array: Tensor, like: Tensor, field: Field) -> Tensor:
    if field.per > 1 or array.stride() == like.stride():
        return array
    return torch.empty_like(like, dtype=array.dtype).copy_(array)


def decoded(value: Tensor, scale: Tensor | None, *, signed: bool) -> Tensor:
    """What a slot holds, as floating-point numbers, however it is stored."""
    if scale is None or value.dtype != torch.uint8:
        return value
    return ARRAYS.value(Blocks(signed), [value, scale.to(value.device)])  # type: ignore[no-any-return]

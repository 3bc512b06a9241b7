"""Arrays of state: convert those that a parameter has to its storage, and create missing ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gradstep.engines.eager import ARRAYS
from gradstep.optimizers.state.storage import dtype_of, find_codec, make_zeros
from gradstep.rules import Rule, Slot
from gradstep.storage.codecs import Codec, Field
from gradstep.storage.elements import BITS
from gradstep.storage.policy import ParameterStorage, keys_of, possible_keys

HALFWAY = 1 << BITS - 1
"""Noise that makes rounding at random round to nearest."""


def slot_dtype(p: Tensor) -> torch.dtype:
    """Return the type of a slot's values: float32 for half precision, else the parameter's own.

    A deviation from torch.optim, which keeps bfloat16 moments for a bfloat16 parameter, where 0.999 rounds to 1.
    """
    return {
        torch.float16: torch.float32,
        torch.bfloat16: torch.float32,
        torch.complex32: torch.complex64,
    }.get(p.dtype, p.dtype)


def complete_state(p: Tensor, stored: ParameterStorage, old: dict[str, Any], name: str) -> dict[str, Any]:
    """Return the old state with every missing array created and every other array in the parameter's layout.

    Args:
        p: the parameter.
        stored: the codecs of parameter and slots.
        old: the state so far, perhaps empty.
        name: the parameter's name in an error.

    Raises:
        RuntimeError: an array has another shape than the parameter needs.
        TypeError: an entry of a slot is not a tensor.
    """
    entry = dict(old)
    if "step" not in entry and any(entry.get(slot.name) is not None for slot in stored.slots):
        entry["step"] = 1.0  # torch's SGD does not count steps, but a buffer exists only after the first
    for field in stored.parameter.fields[1:]:
        entry[field.suffix] = _rounding_array(p, field, entry.get(field.suffix), name)
    for slot, codec in zip(stored.slots, stored.codecs, strict=True):
        entry.update(_slot_arrays(p, slot, codec, entry, name))
    return entry


def _slot_arrays(p: Tensor, slot: Slot, codec: Codec, entry: dict[str, Any], name: str) -> dict[str, Tensor]:
    """Return the arrays of one slot by key: new ones, or those of ``entry``, converted if necessary."""
    value = entry.get(slot.name)
    if value is not None and not isinstance(value, Tensor):
        raise TypeError(f"{slot.name} of {name} must be a tensor of shape {tuple(p.shape)}, but is {value!r}")
    source = find_codec(slot, entry)
    if value is not None and source is None and find_codec(slot, entry, whole=False) is not None:
        raise RuntimeError(f"{slot.name} of {name} is {value.dtype} codes without their scales")
    shape = slot.shape(tuple(p.shape)) if source is None else source.fields[0].shape(p.shape)
    if value is not None and tuple(value.shape) != shape:
        raise RuntimeError(f"{slot.name} of {name} has shape {tuple(value.shape)}, but must have {shape}")
    if value is None:
        if slot.fill == 0 and slot.collapsed is None and not p.is_complex():
            return make_zeros(p, dict(zip(keys_of(slot, codec), codec.fields, strict=True)))
        return _encode_slot(slot, codec, _initial_values(p, slot))
    like = _layout_template(p, slot)
    if codec.block > 1:
        same_order = codec.packed or value.stride() == like.stride()
        if source == codec and same_order and value.device == p.device:
            return {key: _writable(entry[key].to(p.device)) for key in keys_of(slot, codec)}
        return _encode_slot(slot, codec, _initial_values(p, slot).copy_(decode_slot(slot, entry, p)))
    dtype = like.dtype if like.is_complex() else dtype_of(codec.fields[0])
    same = (value.dtype, value.device, value.stride()) == (dtype, p.device, like.stride())
    if same and not value.is_inference():  # torch refuses to write to tensors made in inference mode
        return {slot.name: value}
    return {slot.name: _initial_values(p, slot).to(dtype).copy_(decode_slot(slot, entry, p))}


def _writable(value: Tensor) -> Tensor:
    """Return the tensor, or a copy if it was made in inference mode, since torch refuses to write to such tensors."""
    return value.clone() if value.is_inference() else value


def _layout_template(p: Tensor, slot: Slot) -> Tensor:
    """Return a meta tensor with the shape, strides and type of a slot's values."""
    if slot.collapsed is None:
        return torch.empty_like(p, dtype=slot_dtype(p), device="meta", memory_format=torch.preserve_format)
    return torch.empty(slot.shape(tuple(p.shape)), dtype=slot_dtype(p), device="meta")


def _rounding_array(p: Tensor, field: Field, old: Any, name: str) -> Tensor:
    """Return an array that rounding keeps for a parameter: its master copy, or the rounding error (at first 0)."""
    dtype = dtype_of(field)
    if old is None:
        starts_as_copy = field.element.itemsize > p.element_size()
        return p.detach().to(dtype) if starts_as_copy else torch.zeros_like(p, dtype=dtype)
    if not isinstance(old, Tensor) or old.shape != p.shape:
        raise RuntimeError(f"{field.suffix} of {name} must be a tensor of shape {tuple(p.shape)}")
    fresh = torch.empty_like(p, dtype=dtype, device="meta")
    same = (old.dtype, old.device, old.stride()) == (dtype, p.device, fresh.stride())
    return old if same and not old.is_inference() else torch.empty_like(p, dtype=dtype).copy_(old)


def _initial_values(p: Tensor, slot: Slot) -> Tensor:
    """Return a slot's values before the first step, in the parameter's memory layout."""
    if slot.collapsed is None:
        # A complex number is a pair of real numbers, and both start with the fill value.
        fill = complex(slot.fill, slot.fill) if p.is_complex() else slot.fill
        return torch.full_like(p, fill, dtype=slot_dtype(p), memory_format=torch.preserve_format)
    return torch.full(slot.shape(tuple(p.shape)), slot.fill, dtype=slot_dtype(p), device=p.device)


def _encode_slot(slot: Slot, codec: Codec, value: Tensor) -> dict[str, Tensor]:
    """Return the arrays of a slot by key, encoded with rounding to nearest; ``value`` has the slot's shape."""
    if value.is_complex():
        return {slot.name: value}
    noise = torch.full_like(value, HALFWAY, dtype=torch.int32) if codec.noisy else None
    arrays = ARRAYS.codes(codec, value, noise, value)
    each = zip(keys_of(slot, codec), arrays, codec.fields, strict=True)
    return {key: _copy_in_layout(array, value, field) for key, array, field in each}


def _copy_in_layout(array: Tensor, like: Tensor, field: Field) -> Tensor:
    if field.per > 1 or array.stride() == like.stride():
        return array
    return torch.empty_like(like, dtype=array.dtype).copy_(array)


def decode_slot(slot: Slot, entry: Mapping[str, Any], p: Tensor) -> Tensor:
    """Return the values of a slot that an entry of the parameter ``p`` has, as floating-point numbers."""
    value, codec = entry[slot.name], find_codec(slot, entry)
    if codec is not None:
        fields = [entry[key].to(value.device) for key in keys_of(slot, codec)]
        row_major = torch.empty(p.shape, dtype=torch.bool, device=value.device if codec.packed else "meta")
        value = ARRAYS.value(codec, fields, row_major)
    return value  # type: ignore[no-any-return]


def make_stand_in(kind: type[Rule], entry: Mapping[str, Any]) -> Tensor:
    """Return a tensor with the shape, memory order and precision of an entry's parameter; its memory is not used."""
    if any((codec := find_codec(Slot(key), entry)) and codec.packed for key in entry):
        raise ValueError(
            "the state dict has 4-bit codes, two in a byte, which show no shapes: give an optimizer, not a name"
        )
    scales = set().union(*(possible_keys(Slot(key)) - {key} for key in entry))
    arrays = [v for k, v in entry.items() if isinstance(v, Tensor) and k not in {"step", *kind.scalars, *scales}]
    shape = torch.broadcast_shapes(*(a.shape for a in arrays))
    like = next((a for a in arrays if a.shape == shape), torch.empty(shape, dtype=torch.float32, device="meta"))
    wide = like.dtype if like.dtype in (torch.float64, torch.complex64, torch.complex128) else torch.float32
    return torch.empty_strided(shape, like.stride(), dtype=wide)

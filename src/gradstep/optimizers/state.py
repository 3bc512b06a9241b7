"""The state of one parameter: what is created, and what is made of a state that was loaded."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gradstep.engines.base import UpdateSpec
from gradstep.rules import Rule, Slot
from gradstep.storage.elements import ELEMENTS


def state_dtype(p: Tensor) -> torch.dtype:
    """The type that slots are kept in: float32 for half precision, else the parameter's own.

    A deviation from torch.optim, which keeps bfloat16 moments for a bfloat16 parameter, where 0.999 rounds to 1.
    """
    return {
        torch.float16: torch.float32,
        torch.bfloat16: torch.float32,
        torch.complex32: torch.complex64,
    }.get(p.dtype, p.dtype)


def new_slot(p: Tensor, slot: Slot) -> Tensor:
    """A slot's tensor before the first step, in the parameter's layout of memory."""
    if slot.collapsed is None:
        # A complex number is a pair of real ones, and each starts with the same.
        fill = complex(slot.fill, slot.fill) if p.is_complex() else slot.fill
        return torch.full_like(p, fill, dtype=state_dtype(p), memory_format=torch.preserve_format)
    return torch.full(slot.shape(tuple(p.shape)), slot.fill, dtype=state_dtype(p), device=p.device)


def filled(p: Tensor, rule: Rule, old: dict[str, Any], name: str) -> dict[str, Any]:
    """The old state with every missing slot created and every other brought into the parameter's layout."""
    entry = dict(old)
    slots = rule.slots(p.dim())
    if "step" not in entry and any(entry.get(slot.name) is not None for slot in slots):
        entry["step"] = 1.0  # torch's SGD does not count: a buffer that exists has had its first step
    for slot in slots:
        tensor = entry.get(slot.name)
        if tensor is None:
            entry[slot.name] = new_slot(p, slot)
            continue
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{slot.name} of {name} must be a tensor of shape {tuple(p.shape)}, but is {tensor!r}")
        shape = slot.shape(tuple(p.shape))
        if tuple(tensor.shape) != shape:
            raise RuntimeError(f"{slot.name} of {name} has shape {tuple(tensor.shape)}, but must have {shape}")
        fresh = new_slot(p, slot)
        if (tensor.dtype, tensor.device, tensor.stride()) != (fresh.dtype, fresh.device, fresh.stride()):
            entry[slot.name] = fresh.copy_(tensor)
    return entry


def spec_of(rule: Rule, p: Tensor, g: Tensor, entry: dict[str, Any]) -> UpdateSpec:
    """What is computed for a parameter with such a gradient and state."""
    slots = tuple(slot.name for slot in rule.slots(p.dim()))
    elements = [t.dtype.to_real() for t in (p, g, *(entry[name] for name in slots))]
    return UpdateSpec(
        rule=type(rule),
        slots=slots,
        coefficients=(*rule.coefficients(1, **type(rule).scalars), "gradient"),
        # The eager engine serves types without a codec too, and does not look at the columns.
        columns=tuple(ELEMENTS.get(str(e).removeprefix("torch."), ELEMENTS["float32"]) for e in elements),
    )

"""bitsandbytes' layout of optimizer state, read and written without bitsandbytes.

A parameter's slots are ``state1`` and ``state2``: float32, or uint8 codes in blocks of 256 elements. ``absmax1`` has
the largest magnitude of each block, and ``qmap1`` the 256 numbers that codes stand for, in units of that magnitude.
``step`` is a whole number. Newer versions keep the arrays in a nested dictionary.

Source: Dettmers et al., "8-bit Optimizers via Block-wise Quantization", arXiv:2110.02861, sections 2.1 and 3; read and
written against bitsandbytes 0.50.2.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor

from gradstep.rules import Rule, settings_of
from gradstep.storage.policy import SMALL

NESTED = "__bnb_optimizer_quant_state__"

SLOT_NAMES: Mapping[str, tuple[str, ...]] = {
    "Adam": ("exp_avg", "exp_avg_sq"),
    "AdamW": ("exp_avg", "exp_avg_sq"),
    "Lion": ("exp_avg",),
    "SGD": ("momentum_buffer",),
    "RMSprop": ("square_avg",),
    "Adagrad": ("sum",),
}
"""The slots in ``state1`` and ``state2``, for each rule that bitsandbytes has too."""

_BETAS = {"SGD": ("momentum", "dampening"), "RMSprop": ("alpha", "momentum"), "Adagrad": ()}
"""The settings that bitsandbytes writes into ``betas``, for rules without betas."""

_FOREIGN = ("betas", "eps", "alpha", "t_alpha", "t_beta3")
"""Settings that bitsandbytes also writes for optimizers that do not have them."""

_BLOCK = 256


def is_layout(entry: Mapping[str, Any]) -> bool:
    """Return whether the state of a parameter is in bitsandbytes' layout."""
    return "state1" in entry or NESTED in entry


def slot_names(rule: type[Rule]) -> tuple[str, ...]:
    """Return the slots of a rule in bitsandbytes' order.

    Raises:
        ValueError: bitsandbytes has no such optimizer.
    """
    if rule.__name__ not in SLOT_NAMES:
        raise ValueError(f"bitsandbytes' layout is known for {', '.join(SLOT_NAMES)}, not for {rule.__name__}")
    return SLOT_NAMES[rule.__name__]


def read_entry(rule: type[Rule], entry: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the state of one parameter under torch's names, in float32, and the storage of each slot."""
    flat = {**entry, **entry.get(NESTED, {})}
    slots: dict[str, Any] = {}
    stored: dict[str, str] = {}
    for number, name in enumerate(slot_names(rule), 1):
        value, absmax, table = (flat.pop(f"{key}{number}", None) for key in ("state", "absmax", "qmap"))
        if isinstance(value, Tensor):
            coded = isinstance(absmax, Tensor) and isinstance(table, Tensor)
            slots[name] = decode(value, absmax, table) if coded else value
            stored[name] = "bitsandbytes 8bit" if coded else "float32"
    others = {key: value for key, value in flat.items() if key not in (NESTED, "step", "unorm_vec")}
    return {
        "step": torch.tensor(float(flat.get("step", 0)), dtype=torch.float32, device="cpu"),
        **slots,
        **others,
    }, stored


def read_group(rule: type[Rule], group: Mapping[str, Any]) -> dict[str, Any]:
    """Return a group's settings under torch's names."""
    own = {s.name for s in settings_of(rule)}
    result = {key: value for key, value in group.items() if key in own or key not in _FOREIGN}
    result |= dict(zip(_BETAS.get(rule.__name__, ()), group["betas"], strict=False))
    if rule.__name__ == "RMSprop":
        result["momentum"] = 0.0  # bitsandbytes accepts a momentum and does not use it
    if rule.__name__ == "Adam":
        result["decoupled_weight_decay"] = True  # its Adam decays the weight itself
    return result


def write_entry(rule: type[Rule], entry: Mapping[str, Any], *, bits: int) -> dict[str, Any]:
    """Return the state of one parameter in bitsandbytes' layout, from float32 slots under torch's names.

    Raises:
        ValueError: bitsandbytes does not have a slot.
    """
    names = slot_names(rule)
    arrays = {key: value for key, value in entry.items() if isinstance(value, Tensor) and key != "step"}
    if unknown := arrays.keys() - set(names):
        raise ValueError(f"bitsandbytes keeps no {', '.join(sorted(unknown))} for {rule.__name__}")
    result: dict[str, Any] = {"step": int(entry.get("step", 1))}
    for number, name in enumerate(names, 1):
        if name not in arrays:
            continue
        value = arrays[name].float().contiguous()
        result[f"state{number}"] = value
        if bits == 8 and value.numel() >= SMALL:
            table = dynamic_map(signed=number == 1)
            codes, absmax = encode(value, table)
            result |= {f"state{number}": codes, f"qmap{number}": table.clone(), f"absmax{number}": absmax}
    return result


def write_group(rule: Rule, group: Mapping[str, Any]) -> dict[str, Any]:
    """Return a group with bitsandbytes' settings.

    Raises:
        ValueError: bitsandbytes does not have a setting.
    """
    kind = type(rule)
    values = {s.name: getattr(rule, s.name) for s in settings_of(kind)}
    pair = _BETAS.get(kind.__name__)
    possible = {"lr", "eps", "weight_decay", "decoupled_weight_decay", "betas", *(pair or ())}
    for setting in settings_of(kind):
        if setting.name not in possible and values[setting.name] != setting.default:
            raise ValueError(f"bitsandbytes has no {setting.name}={values[setting.name]!r} for {kind.__name__}")
    if kind.__name__ == "Adam" and values["weight_decay"] and not values["decoupled_weight_decay"]:
        raise ValueError("bitsandbytes' Adam decays the weight itself, as AdamW does, and not in the gradient")
    betas = values["betas"] if pair is None else tuple(values[name] for name in pair)
    own = {key: value for key, value in group.items() if key not in values}
    return {
        **own,
        "lr": group["lr"],
        "betas": betas or (0.0, 0.0),
        "eps": values.get("eps", 0.0),
        "weight_decay": values["weight_decay"],
        "alpha": 0.0,
        "t_alpha": None,
        "t_beta3": None,
    }


def decode(codes: Tensor, absmax: Tensor, table: Tensor) -> Tensor:
    """Decode codes in blocks of 256 to float32, in the codes' shape.

    Args:
        codes: (…,) uint8.
        absmax: (blocks,) the scale of each block.
        table: (256,) the numbers of the codes.
    """
    return (table.to(codes.device)[codes.reshape(-1).long()] * _expand_absmax(absmax, codes)).reshape(codes.shape)


def encode(value: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
    """Encode values by the nearest numbers of a table (256,), with a scale for each block of 256.

    A deviation: the scale makes the block's peak exact; bitsandbytes takes the largest magnitude itself. Its table ends
    at 1 and at −0.993, so a negative peak would be rounded at every conversion.

    Returns:
        The codes in the values' shape, and the scales (blocks,).
    """
    flat, table = value.reshape(-1), table.to(value.device)
    blocks = torch.nn.functional.pad(flat, (0, -len(flat) % _BLOCK)).reshape(-1, _BLOCK)
    highest, lowest = blocks.amax(1), blocks.amin(1)
    absmax = highest / table[-1]
    if table[0] < 0:
        absmax = torch.where(-lowest > highest, lowest / table[0], absmax)
    scaled = flat / _expand_absmax(absmax.masked_fill(absmax == 0, 1.0), flat)
    middles = (table[1:] + table[:-1]) / 2
    return torch.bucketize(scaled, middles).to(torch.uint8).reshape(value.shape), absmax


def _expand_absmax(absmax: Tensor, like: Tensor) -> Tensor:
    """Return (like.numel(),) the scale of each element's block, from (blocks,)."""
    return absmax.to(like.device).repeat_interleave(_BLOCK)[: like.numel()]


@cache
def dynamic_map(*, signed: bool) -> Tensor:
    """Return (256,) the numbers of the "dynamic" 8-bit type, ascending, in units of the block's largest.

    Each decade from 10⁻⁶ up to 1 has twice as many numbers as the one below: the middles of equal parts of [0.1, 1] of
    the decade. Zero and one are added (arXiv:2110.02861, section 3.1).

    >>> dynamic_map(signed=False)[[0, 1, 128, 255]].tolist()
    [0.0, 3.25e-07, 0.11055, 1.0]
    """
    numbers = [0.0, 1.0]
    for decade in range(7):
        ends = torch.linspace(0.1, 1, 2 ** (decade + (not signed)) + 1, dtype=torch.float32, device="cpu")
        middles = 10.0 ** (decade - 6) * ((ends[:-1] + ends[1:]) / 2)
        numbers += middles.tolist() + ((-middles).tolist() if signed else [])
    return torch.tensor(sorted(numbers), dtype=torch.float32, device="cpu")


def strip_class_name(optimizer: torch.optim.Optimizer) -> str:
    """Return the rule's name from an optimizer's class name: bitsandbytes' ``PagedAdamW8bit`` is an AdamW."""
    name = type(optimizer).__name__.removeprefix("Paged")
    return name.removesuffix("32bit").removesuffix("8bit")

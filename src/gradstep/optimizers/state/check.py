"""Check the state of a parameter before a step computes with it or a kernel takes its address."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, fields, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from gradstep.optimizers.memory import PLAIN, lacks_memory, same_places
from gradstep.optimizers.state.storage import MOST_STEPS, Storage, dtype_of, find_codec, is_regular
from gradstep.rules import Rule, Slot
from gradstep.storage.codecs import Codec
from gradstep.storage.elements import ELEMENTS
from gradstep.storage.policy import ROUNDINGS, ParameterStorage, describe_state, keys_of, parameter_codec, possible_keys

ROUNDING_FIELDS = {
    field.suffix: field
    for rounding in ROUNDINGS
    for field in parameter_codec(rounding, ELEMENTS["bfloat16"]).fields[1:]
}
"""The arrays that rounding keeps, by their keys: ``low_byte``, ``kahan_comp``, ``master_param``."""


_PACKED = {getattr(torch, name) for name in dir(torch) if name.endswith("_x2")}
"""Types with two numbers in each element, which torch does not convert."""


class Fault(NamedTuple):
    """A fault in an entry of state.

    Attributes:
        error: the type of exception to raise.
        line: the message: the key, what was given, what is allowed, and what to do.
    """

    error: type[Exception]
    line: str


def check_entry(p: Tensor, stored: ParameterStorage, rule: Rule, entry: Mapping[str, Any], name: str) -> None:
    """Refuse the state of a parameter if it does not fit the parameter or the rule.

    A slot may be missing if a setting has switched it on since; it will be created. An array may have another
    floating-point type or memory order; it will be converted. So a model can be converted in mid-run with its state.

    An entry that passes, with every array in the parameter's type and memory order, is safe for a kernel.

    Args:
        p: the parameter.
        stored: the codecs of parameter and slots.
        rule: the rule with the settings of the parameter's group.
        entry: its state.
        name: the parameter's name in an error.

    Raises:
        TypeError: a value is not a tensor or not a number.
        ValueError: a number is out of its bounds.
        RuntimeError: a tensor does not fit.

    >>> from gradstep.optimizers.state.storage import Storage
    >>> from gradstep.rules import AdamW
    >>> w = torch.zeros(3)
    >>> entry = {"step": torch.tensor(1.0), "exp_avg": torch.zeros(4), "exp_avg_sq": torch.zeros(3)}
    >>> check_entry(w, Storage().of(AdamW(), {}, w, "w"), AdamW(), entry, "w")
    Traceback (most recent call last):
    RuntimeError: the state of w does not fit: exp_avg has shape (4,), but must have (3,)
    """
    if type(entry) is dict and is_regular(p, stored, rule, entry):
        return
    if not isinstance(entry, dict):  # other mappings cannot be written to, or are slower
        fault = make_type_fault(entry)
        raise fault.error(f"the state of {name} does not fit: {fault.line}")
    for fault in find_faults(p, stored, rule, entry):
        raise fault.error(f"the state of {name} does not fit: {fault.line}")


def find_faults(p: Tensor, stored: ParameterStorage, rule: Rule, entry: Any) -> Iterator[Fault]:
    """Yield all faults of an entry, in whatever precision its slots are stored.

    Args:
        p: the parameter.
        stored: the codecs of parameter and slots.
        rule: the rule with the settings of the parameter's group.
        entry: its state; ``None`` stands for a slot that does not exist yet.
    """
    if not isinstance(entry, Mapping):
        yield make_type_fault(entry)
        return
    wrong = list(_find_number_faults(rule, stored, entry))
    yield from wrong
    needed = () if wrong or not entry.get("step") else _default_slots(rule, p.dim())
    for slot in stored.slots:
        value = entry.get(slot.name)
        if value is None and slot.name in needed:
            yield make_missing_fault(slot.name)
        if value is not None:
            yield from _find_slot_faults(p, slot, entry)
    for key, field in ROUNDING_FIELDS.items():
        if entry.get(key) is not None:
            floating = dtype_of(field).is_floating_point
            wrong = list(_find_array_faults(p, key, entry[key], tuple(p.shape), floating=floating))
            yield from wrong
            if not (wrong or floating) and entry[key].dtype != dtype_of(field):
                yield Fault(RuntimeError, f"{key} is {entry[key].dtype}, but must be {dtype_of(field)}")


def find_misfits(p: Tensor, stored: ParameterStorage, rule: Rule, entry: Any, *, strict: bool) -> list[Fault]:
    """Return the faults of a checkpoint's entry: missing, unexpected or unfit values, in whatever precision.

    These are :func:`find_faults`, and slots that are missing while others are there. An entry without any slot fits: a
    setting may have switched the slots on since, as when SGD is given a momentum, and they are created when needed.

    Args:
        p: the parameter.
        stored: the optimizer's codecs of parameter and slots.
        rule: the optimizer's rule, with the settings of the group.
        entry: the state of the parameter in the checkpoint.
        strict: whether keys that the rule does not have are refused; otherwise other code may own them.
    """
    errors = []
    if isinstance(entry, Mapping):
        present = {key for key, value in entry.items() if value is not None}
        expected = {"step", *rule.scalars, *ROUNDING_FIELDS}.union(*map(possible_keys, stored.slots))
        unexpected = [key for key in entry if key in present - expected] if strict else []
        if unexpected or any(slot.name in present for slot in stored.slots):
            errors += [make_missing_fault(slot.name) for slot in stored.slots if slot.name not in present]
        errors += [Fault(RuntimeError, f"{key} is unexpected") for key in unexpected]
    return list(dict.fromkeys([*errors, *find_faults(p, stored, rule, entry)]))


def make_type_fault(entry: Any) -> Fault:
    """Return the fault of an entry that is not a dictionary."""
    return Fault(TypeError, f"it is {_show_value(entry)}, but must be a dictionary of arrays and numbers")


def make_missing_fault(key: str) -> Fault:
    """Return the fault of an entry that lacks one of its arrays."""
    return Fault(RuntimeError, f"{key} is missing; put it back, or delete the parameter's whole state to begin anew")


def _default_slots(rule: Rule, ndim: int) -> set[str]:
    """Return the slots that the rule has with default settings, and so from the first step on."""
    defaults = {field.name: field.default for field in fields(rule) if field.default is not MISSING}
    return {slot.name for slot in replace(rule, **defaults).slots(ndim)}


def find_losses(p: Tensor, stored: ParameterStorage, entry: Mapping[str, Any]) -> Iterator[str]:
    """Yield a message for each array of an entry that the optimizer's storage would round or drop.

    A slot of zeros can be stored in any precision.
    """
    for slot, codec in zip(stored.slots, stored.codecs, strict=True):
        value = entry.get(slot.name)
        if value is None:
            continue
        source = find_codec(slot, entry)
        if _can_hold(codec, value, source, p):
            continue
        if source is not None or value.device.type == "meta" or bool(value.any()):
            target = f"{codec.name} blocks in another order of memory" if source == codec else codec.name
            yield f"{slot.name} is stored as {storage_name(slot.name, entry)}, and here as {target}"
    own = {field.suffix: field for field in stored.parameter.fields[1:]}
    for key in ROUNDING_FIELDS:
        value = entry.get(key)
        if value is None:
            continue
        if key not in own:
            yield f"{key} would be dropped: the parameter is stored as {stored.parameter.name} here"
        elif not _is_wide_enough(dtype_of(own[key]), value.dtype):
            yield f"{key} is stored as {storage_name(key, entry)}, and here as {own[key].element.name}"


# -- numbers ----------------------------------------------------------------------------------------------------------


def find_reading_losses(saved: Storage, stored: ParameterStorage, entry: Any) -> Iterator[str]:
    """Yield a message for each array that was saved, and that is missing in an entry, or rounded.

    ``torch.distributed.checkpoint`` reads the arrays that the new optimizer has, and copies them into their types.

    Args:
        saved: how the parameter was stored.
        stored: how this optimizer stores it.
        entry: the state that was read.
    """
    for kept in parameter_codec(saved.rounding, stored.parameter.fields[0].element).fields[1:]:
        if kept.suffix not in entry:
            yield f"{kept.suffix} was saved, and has not been read"
    for slot in stored.slots:
        value = entry.get(slot.name)
        rounded = saved.state == "float32" and isinstance(value, Tensor) and value.dtype == torch.bfloat16
        if rounded and (value.device.type == "meta" or bool(value.any())):
            yield f"{slot.name} was saved in float32, and has been rounded to bfloat16"


def count_updates(group: Mapping[str, Any], state: Mapping[Any, Any]) -> int:
    """Return the largest step count of a group in a state dictionary with this ``state``; 0 without any."""
    entries = (entry for key in group["params"] if isinstance(entry := state.get(key), Mapping))
    return int(max((count for entry in entries if (count := _read_number(entry.get("step")))), default=0))


def _find_number_faults(rule: Rule, stored: ParameterStorage, entry: Mapping[str, Any]) -> Iterator[Fault]:
    has_slots = any(entry.get(slot.name) is not None for slot in stored.slots)
    if "step" in entry:
        wrong = _find_step_fault(entry["step"])
        if wrong is not None:
            yield wrong
    elif has_slots and not _is_indifferent_to_steps(rule):
        yield Fault(RuntimeError, f"step is missing, and {type(rule).__name__} needs the number of steps taken")
    for key, start in rule.scalars.items():
        if key in entry:
            wrong = _find_scalar_fault(key, entry[key], start)
            if wrong is not None:
                yield wrong
        elif has_slots:
            yield Fault(RuntimeError, f"{key} is missing; before the first step it is {start}")


def _is_indifferent_to_steps(rule: Rule) -> bool:
    """Return whether all steps after the first are alike, so that no step count is needed (torch's SGD has none)."""
    return not rule.scalars and rule.coefficients(2) == rule.coefficients(3)


def _find_step_fault(value: Any) -> Fault | None:
    step = _read_number(value)
    allowed = f"must be a whole number from 0 to {MOST_STEPS:,}, the number of steps taken"
    if step is None:
        return Fault(TypeError, f"step is {_show_value(value)}, but {allowed}")
    if not (0 <= step <= MOST_STEPS and step == int(step)):
        return Fault(ValueError, f"step is {step:g}, but {allowed}")
    return None


def _find_scalar_fault(key: str, value: Any, start: float) -> Fault | None:
    number = _read_number(value)
    if number is None:
        return Fault(TypeError, f"{key} is {_show_value(value)}, but must be a number (before the first step {start})")
    if not math.isfinite(number):
        return Fault(ValueError, f"{key} is {number}, but must be finite (before the first step {start})")
    return None


def _read_number(value: Any) -> float | None:
    """Return a real number, or a tensor that holds one, as a float; None for anything else."""
    if isinstance(value, (bool, np.bool_, str, bytes, bytearray, complex)) or value is None:
        return None
    if isinstance(value, Tensor) and (
        value.numel() != 1 or value.is_complex() or value.dtype == torch.bool or _has_no_numbers(value)
    ):
        return None
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):  # any object; RuntimeError for a tensor without memory
        return None


def _has_no_numbers(value: Tensor) -> bool:
    """Return whether a plain tensor's numbers are not in memory: it is sparse, freed, on meta, or made under a mode."""
    return type(value) in PLAIN and lacks_memory(value)


# -- arrays -----------------------------------------------------------------------------------------------------------


def _find_slot_faults(p: Tensor, slot: Slot, entry: Mapping[str, Any]) -> Iterator[Fault]:
    shape = slot.shape(tuple(p.shape))
    if isinstance(entry[slot.name], Mapping):
        given = _show_fields(entry[slot.name])
        yield Fault(TypeError, f"{slot.name} is {given}, but must be a tensor, or uint8 codes with a scale, of {shape}")
        return
    codec = find_codec(slot, entry, whole=False)
    stored_shape = shape if codec is None else codec.fields[0].shape(shape)
    wrong = list(_find_array_faults(p, slot.name, entry[slot.name], stored_shape, floating=codec is None))
    yield from wrong
    if codec is None:
        return
    if codec.packed and not wrong and not entry[slot.name].is_contiguous():
        yield Fault(
            RuntimeError,
            f"{slot.name} has strides {entry[slot.name].stride()}, but must be contiguous: use contiguous()",
        )
    codes = f"{describe_state(codec.name)} codes"
    if p.is_complex() or slot.collapsed is not None:
        yield Fault(RuntimeError, f"{slot.name} is {codes}, which are for real values of the parameter's shape")
    for key, field in zip(keys_of(slot, codec)[1:], codec.fields[1:], strict=True):
        value, dtype = entry.get(key), dtype_of(field)
        if value is None:
            yield Fault(RuntimeError, f"{key} is missing, without which {slot.name}, {codes}, cannot be decoded")
            continue
        wrong = list(_find_array_faults(p, key, value, field.shape(shape), floating=False))
        yield from wrong
        if not wrong and value.dtype != dtype:
            yield Fault(RuntimeError, f"{key} is {value.dtype}, but must be {dtype}, one number for {field.per} codes")
        elif not wrong and field.per > 1 and not value.is_contiguous():
            yield Fault(RuntimeError, f"{key} has strides {value.stride()}, but must be contiguous: use contiguous()")


def _show_fields(fields: Mapping[Any, Any]) -> str:
    """Return what a dictionary in the place of an array has, for an error message."""
    kinds = {name: value.dtype if isinstance(value, Tensor) else type(value).__name__ for name, value in fields.items()}
    return f"a dictionary ({', '.join(f'{name}: {kind}' for name, kind in kinds.items()) or 'empty'})"


def _find_array_faults(p: Tensor, key: str, value: Any, shape: tuple[int, ...], *, floating: bool) -> Iterator[Fault]:
    """Yield the fault of one array, which must have this shape; its memory is not read."""
    if not isinstance(value, Tensor):
        yield Fault(TypeError, f"{key} is {_show_value(value)}, but must be a tensor of shape {shape}")
        return
    if type(value) not in PLAIN and type(p) in PLAIN:
        yield Fault(TypeError, f"{key} is a {type(value).__name__}, but must be a plain torch.Tensor")
    elif value.is_nested:
        yield Fault(RuntimeError, f"{key} is a nested tensor, but must be dense: use to_padded_tensor()")
    elif value.layout != torch.strided:
        yield Fault(RuntimeError, f"{key} is {value.layout}, but must be dense (torch.strided): use to_dense()")
    elif tuple(value.shape) != shape:
        yield Fault(RuntimeError, f"{key} has shape {tuple(value.shape)}, but must have {shape}")
    elif floating and not ((value.is_floating_point() and value.dtype not in _PACKED) or value.is_complex()):
        yield Fault(RuntimeError, f"{key} is {value.dtype}, but must hold floating-point numbers")
    elif value.is_complex() and not p.is_complex():
        yield Fault(RuntimeError, f"{key} is {value.dtype}, but the parameter is {p.dtype}, which is real")
    elif value.is_conj() or value.is_neg():
        yield Fault(RuntimeError, f"{key} is a lazily conjugated or negated view: use resolve_conj() or resolve_neg()")
    elif value.device.type == "meta" and p.device.type != "meta":
        yield Fault(RuntimeError, f"{key} is on the meta device, where there are no numbers, and the parameter is not")
    elif type(value) in PLAIN and value.device.type != "meta" and lacks_memory(value):
        yield Fault(RuntimeError, f"{key} has no memory for its {value.numel():,} elements: it was freed or never made")


# -- how numbers are stored -------------------------------------------------------------------------------------------


def _can_hold(codec: Codec, value: Tensor, source: Codec | None, p: Tensor) -> bool:
    """Return whether a codec can store every number of a slot's present array, stored in ``source``, unchanged."""
    if codec.block > 1:
        return source == codec and (codec.packed or same_order(value, torch.empty_like(p, device="meta")))
    target = dtype_of(codec.fields[0])
    target = target.to_complex() if p.is_complex() else target
    return _is_wide_enough(target, value.dtype if source is None else getattr(torch, source.values))


def _is_wide_enough(target: torch.dtype, source: torch.dtype) -> bool:
    """Return whether ``target`` has every number of ``source``."""
    if source.itemsize == 1 and source != target:  # float8: at most 3 bits of mantissa
        source = torch.bfloat16
    return source == target or torch.promote_types(source, target) == target


def same_order(a: Tensor, b: Tensor) -> bool:
    """Return whether two tensors of one shape have the same memory order of elements, in which blocks are cut.

    >>> a = torch.zeros(2, 3)
    >>> same_order(a, torch.ones(2, 3)), same_order(a, torch.ones(3, 2).t())
    (True, False)
    """
    return a.numel() < 2 or same_places(a.shape, a.stride(), b.stride())


def storage_name(key: str, entry: Mapping[str, Any]) -> str:
    """Return the name that users give to the precision of an array of state.

    >>> storage_name("exp_avg", {"exp_avg": torch.zeros(1)})
    'float32'
    """
    codec = find_codec(Slot(key), entry)
    return str(entry[key].dtype).removeprefix("torch.") if codec is None else codec.name


def _show_value(value: Any) -> str:
    """Return a value in one line for an error, without a tensor's numbers."""
    if isinstance(value, Tensor):
        kind = f"{value.dtype}" if value.layout == torch.strided else f"{value.layout} {value.dtype}"
        memory = " without memory" if value.layout == torch.strided and _has_no_numbers(value) else ""
        return f"a {kind} tensor of shape {tuple(value.shape)}{memory}"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def choose_error(errors: Sequence[Fault]) -> type[Exception]:
    """Return the type of exception for several faults: faults of tensors go before faults of numbers."""
    return next(kind for kind in (RuntimeError, ValueError, TypeError) if any(fault.error is kind for fault in errors))

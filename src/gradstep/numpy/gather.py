"""What there is of every parameter, looked at before anything is changed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from gradstep.engines.base import Engine, UpdateSpec
from gradstep.numpy.base import Floats, HasGradient
from gradstep.numpy.batch import choose, is_dense, spec_of
from gradstep.rules import Rule, Slot

Buffers = list[Any]
"""One slot of every parameter: its array, or None before the parameter's first step."""


@final
@dataclass(frozen=True)
class Member:
    """One parameter that is to be updated.

    Attributes:
        index: its place in the list of parameters.
        param: its array.
        slots: its state by name; new where there was none.
        engine, spec: who updates it, and what is computed.
    """

    index: int
    param: Floats
    slots: dict[str, Floats]
    engine: Engine
    spec: UpdateSpec


def gather(
    active: Iterable[int], params: Sequence[HasGradient], rule: Rule, buffers: Mapping[str, Buffers], wish: str
) -> list[Member]:
    """Some of the parameters, with their state.

    Args:
        active: the places of those that are to be updated.
        params: all parameters.
        rule: what is computed.
        buffers: the state so far.
        wish: the engine asked for.

    Raises:
        ValueError: an array of another shape, one that cannot be written to, or an engine that cannot serve one.
        TypeError: an array that does not hold the right kind of numbers.
    """
    coefficients = tuple(rule.coefficients(1, **rule.scalars))
    members = []
    for i in active:
        label = f"parameter {i}"
        data = usable(params[i].data, label)
        slots = {
            slot.name: _slot(slot, buffers[slot.name][i] if slot.name in buffers else None, data, label)
            for slot in rule.slots(data.ndim)
        }
        dtype = data.dtype.name
        engine, _ = choose(wish, type(rule), dtype, is_dense([data, *slots.values()]))
        members.append(Member(i, data, slots, engine, spec_of(type(rule), tuple(slots), coefficients, dtype)))
    return members


def usable(data: Any, label: str) -> Floats:
    """The parameter's array, if it can be updated in place."""
    if not isinstance(data, np.ndarray):
        raise TypeError(f"the data of {label} must be a NumPy array, but is {type(data).__name__}")
    if data.dtype not in (np.float32, np.float64):
        raise TypeError(f"{label} must be of float32 or float64, but is of {data.dtype}")
    if not data.flags.writeable:
        raise ValueError(f"{label} cannot be updated: its array is read-only")
    return np.asarray(data)  # no subclass with a product of its own


def _slot(slot: Slot, held: Floats | None, data: Floats, label: str) -> Floats:
    shape = slot.shape(data.shape)
    if held is not None:
        array = fitting(held, data, shape, f"{slot.name} of {label}")
        return array if array.flags.writeable else array.copy("K")
    if slot.collapsed is None:
        return np.full_like(data, slot.fill)
    return np.full(shape, slot.fill, dtype=data.dtype)


def fitting(array: Any, data: Floats, shape: tuple[int, ...], label: str) -> Floats:
    """The array, or a copy in the parameter's type of elements and order of axes if it differs in them.

    Raises:
        ValueError: it is not an array of this shape.
        TypeError: it holds no real numbers.
    """
    if not isinstance(array, np.ndarray) or array.shape != shape:
        found = f"shape {array.shape}" if isinstance(array, np.ndarray) else f"the type {type(array).__name__}"
        raise ValueError(f"{label} must be an array of shape {shape}, but has {found}")
    same_order = array.strides == data.strides or shape != data.shape
    if array.dtype == data.dtype and same_order and array.flags.aligned:
        return array
    if not np.can_cast(array.dtype, data.dtype, "same_kind"):
        raise TypeError(f"{label} must hold real numbers, but is of {array.dtype}")
    copy = np.empty_like(data, shape=shape)
    with np.errstate(over="ignore"):  # a float64 beyond float32 is infinite there
        copy[...] = array
    return copy

"""The arrays of an optimizer's parameters, checked and grouped by the engine that updates them.

A table is made at the first step and used while it is up to date. It is derived from the parameters, the state and the
rule. An array may be replaced, reshaped or moved between two steps, so the address and layout of each are read at every
step, and compared. A table holds no reference to an array, so that arrays can be freed.
"""

from __future__ import annotations

import ctypes
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias, final

import numpy as np
from numpy.typing import NDArray

from gradstep.engines.base import LENGTH, Engine, StepBatch, Traits
from gradstep.engines.fused import Fused
from gradstep.engines.fused.launcher import count_processors
from gradstep.engines.reference import Reference
from gradstep.engines.statistics import Detail, Int64s, RowLabels
from gradstep.engines.step import choose_engine
from gradstep.numpy.base import Floats, HasGradient, array_of
from gradstep.rules import Rule, Slot
from gradstep.storage.codecs import Nearest
from gradstep.storage.elements import ELEMENTS
from gradstep.storage.policy import UpdateSpec

ENGINES: Mapping[str, Engine] = {engine.name: engine for engine in (Fused(), Reference())}
"""The engines that need no torch, the fastest first."""

Buffers = list[Any]
"""One slot of every parameter: its array, or None before the parameter's first step."""

_threads = cache(count_processors)

# -- layouts of arrays ------------------------------------------------------------------------------------------------

ArrayLayout: TypeAlias = tuple[int, tuple[int, ...], tuple[int, ...], "np.dtype[Any]", int]
"""Address, shape, strides, type of elements, and NumPy's flags (in order, aligned, writeable) of an array."""

SHARED_LAYOUT = slice(1, 4)
"""The part of a layout that a gradient must share with its parameter: shape, strides, type of elements."""


def read_layout(array: NDArray[Any]) -> ArrayLayout:
    """Return the layout of an array.

    >>> x = np.zeros((2, 3), dtype=np.float32)
    >>> read_layout(x)[0] == x.ctypes.data, read_layout(x)[SHARED_LAYOUT]
    (True, ((2, 3), (12, 4), dtype('float32')))
    """
    return address(array), array.shape, array.strides, array.dtype, array.flags.num


def address(array: NDArray[Any]) -> int:
    """Return the address of the first element of an array.

    It is read each time, since ``resize`` moves the memory of an array. The buffer protocol takes 0.26 µs and
    ``array.ctypes.data`` 1 µs (a step of a small array takes 2), but the protocol works only for arrays that are in C
    order, writeable and not empty.

    >>> x = np.zeros((2, 3))
    >>> [address(a) == a.ctypes.data for a in (x, x.T, x[:, 1:], x[:0], np.zeros(()))]
    [True, True, True, True, True]
    """
    try:
        return ctypes.addressof(_byte_at(array))
    except (TypeError, ValueError, BufferError):
        return array.ctypes.data


# Annotated, since before Python 3.12 type checkers do not know that an array is a buffer.
_byte_at: Callable[[Any], ctypes.c_char] = ctypes.c_char.from_buffer


def is_dense(arrays: Sequence[Floats]) -> bool:
    """Return whether all arrays are dense and in the same order of axes, so that elements correspond by number.

    >>> x = np.zeros((2, 3))
    >>> is_dense([x, x]), is_dense([x.T, x.T]), is_dense([x, np.asfortranarray(x)]), is_dense([x[:, :2]])
    (True, True, False, False)
    """
    flags = [a.flags for a in arrays]
    in_order = all(f.c_contiguous for f in flags) or all(f.f_contiguous for f in flags)
    return in_order and all(f.aligned for f in flags)


def choose_array_engine(name: str, rule: type[Rule], arrays: Sequence[Floats], label: str) -> tuple[Engine, str]:
    """Return the engine for a parameter, by the user's choice ``name``, and the reason.

    Args:
        arrays: the parameter, then its slots.

    Raises:
        ValueError: the chosen engine cannot update this parameter.
    """
    traits = Traits(dtype=arrays[0].dtype.name, device="cpu", dense=is_dense(arrays), plain=True)
    return choose_engine(name, ENGINES, rule, traits, label, "array")


# -- parameters with their state, before anything is changed ----------------------------------------------------------


@final
@dataclass(frozen=True)
class Member:
    """One parameter to update, with its state."""

    index: int  # its position in the list of parameters
    param: Floats  # its array
    slots: dict[str, Floats]  # its state by name; new arrays if there was none
    # engine, spec: the engine that updates it, and the update
    engine: Engine
    spec: UpdateSpec


def gather(
    active: Iterable[int], params: Sequence[HasGradient], rule: Rule, buffers: Mapping[str, Buffers], engine_name: str
) -> list[Member]:
    """Check the parameters at the positions ``active`` and their state, and create missing state.

    ``buffers``, the state so far, is not changed.

    Raises:
        ValueError: an array has another shape or cannot be written to, or the rule or the engine cannot update a
            parameter.
        TypeError: an array does not hold the right kind of numbers.
    """
    members = []
    for i in active:
        label = f"parameter {i}"
        data = check_writable(params[i].data, label)
        check_shape(rule, data, label)
        slots = rule.slots(data.ndim)
        present = [buffers[slot.name][i] if slot.name in buffers else None for slot in slots]
        arrays = [_slot_array(slot, array, data, label) for slot, array in zip(slots, present, strict=True)]
        engine, _ = choose_array_engine(engine_name, type(rule), [data, *arrays], label)
        plain = Nearest(ELEMENTS[data.dtype.name])
        spec = UpdateSpec.of(rule, slots, plain, plain, [plain] * len(slots))
        members.append(Member(i, data, {slot.name: a for slot, a in zip(slots, arrays, strict=True)}, engine, spec))
    return members


def check_shape(rule: Rule, data: Floats, label: str) -> None:
    """Refuse a parameter of a shape that the rule cannot update.

    Raises:
        ValueError: with the reason and what to do.
    """
    refusal = rule.explain_refusal(data.shape)
    if refusal is not None:
        raise ValueError(f"{type(rule).__name__} cannot update {label} of shape {data.shape}: {refusal}")


def check_writable(data: Any, label: str) -> Floats:
    """Return the parameter's array if it can be updated in place.

    Raises:
        TypeError: it is not an array of float32 or float64.
        ValueError: it is read-only.
    """
    if not isinstance(data, np.ndarray):
        raise TypeError(f"the data of {label} must be a NumPy array, but is {type(data).__name__}")
    if data.dtype not in (np.float32, np.float64):
        raise TypeError(f"{label} must be of float32 or float64, but is of {data.dtype}")
    if not data.flags.writeable:
        raise ValueError(f"{label} cannot be updated: its array is read-only")
    return np.asarray(data)  # not a subclass, which may redefine arithmetic


def _slot_array(slot: Slot, present: Floats | None, data: Floats, label: str) -> Floats:
    """Return the array of a slot for a parameter ``data``: the present one, converted if necessary, or a new one."""
    shape = slot.shape(data.shape)
    if present is not None:
        array = fit_array(present, data, shape, f"{slot.name} of {label}")
        return array if array.flags.writeable else array.copy("K")
    if slot.collapsed is None:
        return np.full_like(data, slot.fill)
    return np.full(shape, slot.fill, dtype=data.dtype)


def fit_array(array: Any, data: Floats, shape: tuple[int, ...], label: str) -> Floats:
    """Return the array, or a converted copy if its type or order of axes is not that of the parameter ``data``.

    Raises:
        ValueError: it is not an array of this shape.
        TypeError: it does not hold real numbers.
    """
    if not isinstance(array, np.ndarray) or array.shape != shape:
        actual = f"shape {array.shape}" if isinstance(array, np.ndarray) else f"the type {type(array).__name__}"
        raise ValueError(f"{label} must be an array of shape {shape}, but has {actual}")
    same_order = array.strides == data.strides or shape != data.shape
    if array.dtype == data.dtype and same_order and array.flags.aligned:
        return array
    if not np.can_cast(array.dtype, data.dtype, "same_kind"):
        raise TypeError(f"{label} must hold real numbers, but is of {array.dtype}")
    copy = np.empty_like(data, shape=shape)
    with np.errstate(over="ignore"):  # a float64 beyond the range of float32 becomes infinite
        copy[...] = array
    return copy


# -- tables -----------------------------------------------------------------------------------------------------------

_NUMBERS = 3
"""Columns of a table after the addresses: number of elements, row of coefficients, key of noise."""


@final
@dataclass(frozen=True, eq=False)
class Part:
    """Parameters that one engine updates with one spec.

    Attributes:
        engine, spec: the engine that updates them, and the update.
        places: (n,) their positions in the list of parameters; ``members`` is the same as an array.
        layouts: the layouts of their arrays: of every parameter, then of every array of the first slot, and so on.
        table: the table for the engine (see :class:`gradstep.engines.base.Batch`); the gradients' addresses and the
            rows are those of the last step.
        lengths_key: the lengths, as in :attr:`gradstep.engines.base.Batch.lengths_key`.
    """

    engine: Engine
    spec: UpdateSpec
    places: list[int]
    members: Int64s
    layouts: list[ArrayLayout]
    table: Int64s
    lengths_key: bytes

    @staticmethod
    def of(engine: Engine, spec: UpdateSpec, members: Sequence[Member]) -> Part:
        """Return the part of these members, which have this engine and spec."""
        columns = [[m.param for m in members], *([m.slots[name] for m in members] for name in spec.slots)]
        layouts = [read_layout(a) for column in columns for a in column]
        table = np.zeros((len(members), 1 + len(columns) + _NUMBERS), dtype=np.int64)
        table[:, 1:-_NUMBERS] = np.reshape([at for at, *_ in layouts], (len(columns), len(members))).T
        table[:, LENGTH] = [m.param.size for m in members]
        places = [m.index for m in members]
        return Part(engine, spec, places, np.array(places, dtype=np.int64), layouts, table, table[:, LENGTH].tobytes())

    def columns(self, params: Sequence[HasGradient], buffers: Mapping[str, Buffers]) -> list[list[Any]]:
        """Return the parameters' arrays, and those of each slot, with None for a missing array."""
        slots = [buffers.get(name) for name in self.spec.slots]
        return [
            [params[i].data for i in self.places],
            *([None if arrays is None else arrays[i] for i in self.places] for arrays in slots),
        ]

    def batch(self, params: Sequence[HasGradient], buffers: Mapping[str, Buffers]) -> ArrayBatch:
        """Return the batch of this step.

        Raises:
            ValueError: a gradient has another shape.
            TypeError: a gradient does not hold real numbers.
        """
        gradients = []
        for i, own in zip(self.places, self.layouts):
            grad = params[i].grad
            g = grad if type(grad) is np.ndarray else array_of(grad)
            if not g.flags.aligned or (g.shape, g.strides, g.dtype) != own[SHARED_LAYOUT]:
                data = params[i].data
                g = fit_array(g, data, data.shape, f"the gradient of parameter {i}")
            gradients.append(g)
        self.table[:, 0] = list(map(address, gradients))
        return ArrayBatch(self, gradients, params, buffers)


@final
class ArrayBatch(StepBatch):
    """The parameters of a part during one step, with their gradients in the parameters' layouts.

    ``params`` and ``buffers`` are the optimizer's; new slots are added to ``buffers`` before the engine reads them.
    """

    group = 0

    def __init__(
        self,
        part: Part,
        gradients: list[Floats],
        params: Sequence[HasGradient],
        buffers: Mapping[str, Buffers],
    ) -> None:
        self.engine, self.spec, self.table = part.engine, part.spec, part.table
        self.places, self.members, self.lengths_key = part.places, part.members, part.lengths_key
        self.threads = _threads()
        self._part, self._gradients, self._params, self._buffers = part, gradients, params, buffers

    @property
    def names(self) -> Sequence[str]:
        return [f"parameter {i}" for i in self.places]

    @property
    def columns(self) -> Sequence[Sequence[Floats]]:
        params, *slots = self._part.columns(self._params, self._buffers)
        return [self._gradients, list(map(np.asarray, params)), *slots]  # asarray as in check_writable

    def arrays(self) -> Sequence[Sequence[NDArray[Any]]]:
        return self.columns

    def watch(self, detail: Detail) -> None:
        groups = np.zeros_like(self.members)
        self.labels = RowLabels.of(detail, self.names, self.members, groups, self.lengths)
        self.owners, self.owners_key = self.labels.owners, self.labels.key

    def find_nonfinite(self) -> Iterator[int]:
        return (k for k, g in enumerate(self._gradients) if not np.isfinite(g).all())

    def largest_gradient(self) -> float:
        return max((float(np.abs(g).max()) for g in self._gradients if g.size), default=0.0)

    def sum_squares(self, divisor: float) -> float:
        return sum(float(np.sum(np.square(g / divisor, dtype=np.float64))) for g in self._gradients)


@final
class Table:
    """The parameters that have a gradient, grouped into parts."""

    def __init__(self, members: Sequence[Member], rule: Rule) -> None:
        by_part: defaultdict[tuple[Engine, UpdateSpec], list[Member]] = defaultdict(list)
        for member in members:
            by_part[member.engine, member.spec].append(member)
        self.active = [m.index for m in members]
        self.rule = rule
        self.parts = [Part.of(engine, spec, group) for (engine, spec), group in by_part.items()]

    def is_up_to_date(
        self, active: Sequence[int], params: Sequence[HasGradient], rule: Rule, buffers: Mapping[str, Buffers]
    ) -> bool:
        """Return whether the table is up to date for the parameters at the positions ``active``."""
        return (
            active == self.active
            and (rule is self.rule or rule.structure == self.rule.structure)
            and all(_read_layouts(part.columns(params, buffers)) == part.layouts for part in self.parts)
        )


def _read_layouts(columns: Iterable[Iterable[Any]]) -> list[ArrayLayout | None]:
    return [read_layout(a) if isinstance(a, np.ndarray) else None for column in columns for a in column]

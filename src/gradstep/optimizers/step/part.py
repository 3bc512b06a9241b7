"""The parts of an optimizer's table, their batch in a step, and the layouts of their tensors in memory.

Python reads one property of one tensor at a time and needs about a microsecond for a parameter with its gradient,
longer than the update of a small tensor. So a compiled loop (``read_layouts.ll``) reads layouts and compares them,
through torch's stable C interface: ``aoti_torch_get_*`` functions take nanoseconds. They are the C interface that torch
keeps stable for compiled models; a handle is the address of a cell that holds a tensor's ``_cdata``. The loop gets
``_cdata``, the tensor's type and its ``is_neg()`` through Python's own C interface. Only the fused engine uses it, and
only with the versions of torch that it was tested with. ``GRADSTEP_NATIVE=0`` in the environment switches it off;
:class:`gradstep.optimizers.memory.Layouts`, in Python, takes its place.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import chain
from pathlib import Path
from string import Template
from typing import Any, cast, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gradstep.engines.base import LENGTH, Engine, StepBatch
from gradstep.engines.statistics import DETAILS, Detail, Int64s, RowLabels
from gradstep.optimizers.memory import PLAIN, Layouts, array_of, conform_gradient, is_freed, lacks_memory
from gradstep.optimizers.sharded import Place, ShardedParameter, local_gradients, local_tensors
from gradstep.optimizers.step.runs import Runs
from gradstep.storage.policy import UpdateSpec
from gradstep.switches import is_switched_off


@final
@dataclass(frozen=True)
class Part:
    """Parameters that one engine updates with one spec.

    Attributes:
        engine: the engine that updates them.
        spec: the computation and the storage.
        members: (n,) the position of each parameter in the table.
        groups: (n,) the number of each parameter's group.
        params, names: the parameters, and their names.
        fields: the state's key of every array of state: arrays that rounding keeps, then the slots'.
        slots: for each field, the tensors of all parameters.
        dtype: the gradients' type.
        plain: whether the parameters are plain tensors, whose memory layout can be compared with the last step's.
        shards: the distributed parameters of which ``params`` are the local tensors; empty for other parameters.
    """

    engine: Engine
    spec: UpdateSpec
    members: Int64s
    groups: Int64s
    params: list[Tensor]
    names: list[str]
    fields: tuple[str, ...]
    slots: list[list[Tensor]]
    dtype: torch.dtype
    plain: bool
    shards: Sequence[ShardedParameter] = ()

    def __post_init__(self) -> None:
        """Read the layouts now; later layouts are compared with them."""
        self.table  # noqa: B018  # fills the caches
        self.runs  # noqa: B018

    @cached_property
    def layouts(self) -> Sequence[Layouts | NativeLayouts]:
        """The layouts of the parameters, then of each field; empty for tensor subclasses."""
        if not self.plain:
            return []
        kind = NativeLayouts if self.engine.by_address and is_native() else Layouts
        return [kind.of(column) for column in (self.params, *self.slots)]

    @cached_property
    def _storages(self) -> list[torch.UntypedStorage]:
        """The state's storages, held so that its addresses stay valid even if a slot is given other memory."""
        return [t.untyped_storage() for t in chain(*self.slots)] if self.plain else []

    @cached_property
    def only_group(self) -> int | None:
        """The number of the group of all members; None if there are several."""
        return int(self.groups[0]) if (self.groups == self.groups[0]).all() else None

    @cached_property
    def table(self) -> Int64s:
        """(n, fields + 3) as engines take it; each step writes the gradients' addresses into the first column."""
        self._storages  # noqa: B018
        zeros = np.zeros(len(self.params), np.int64)
        addresses = [layouts.pointers for layouts in self.layouts] or [zeros] * (1 + len(self.slots))
        return np.column_stack((zeros, *addresses, [p.numel() for p in self.params], zeros, zeros))

    @cached_property
    def labels(self) -> dict[Detail, RowLabels]:
        """Row labels of statistics, for parameters and for groups."""
        whole = np.array([shard.parameter.numel() for shard in self.shards], dtype=np.int64)
        columns = (self.names, self.members, self.groups, whole if self.shards else self.table[:, LENGTH].copy())
        return {detail: RowLabels.of(detail, *columns) for detail in DETAILS}

    @cached_property
    def lengths_key(self) -> bytes:
        """The lengths, as in :attr:`gradstep.engines.base.Batch.lengths_key`."""
        return self.table[:, LENGTH].tobytes()

    @cached_property
    def _kinds(self) -> list[tuple[Any, ...]]:
        return list(map(_kind, self.params))

    @cached_property
    def versioned(self) -> list[Tensor]:
        """The parameters that have a version counter; those made in inference mode have none."""
        return [p for p in (*self.params, *(shard.parameter for shard in self.shards)) if not p.is_inference()]

    @cached_property
    def runs(self) -> Runs | None:
        """The runs of distributed parameters whose update depends on the numbers of elements; else None."""
        return Runs(self.shards, self.spec) if self.shards and self.spec.noise else None

    @cached_property
    def place(self) -> Place | None:
        """The place of the parameters' elements; None if this process has them all."""
        return self.shards[0].place if self.shards and self.shards[0].place.dims else None

    def params_moved(self) -> bool:
        """Return whether a parameter's memory, type, shape or device has changed since this part was made."""
        if self.plain:
            params = local_tensors(self.shards) if self.shards else self.params
            return not self.layouts[0].are_unchanged(params)
        return list(map(_kind, self.params)) != self._kinds or any(map(is_freed, self.params))

    def slots_moved(self) -> bool:
        """Return whether the memory of a slot has changed since this part was made."""
        return not all(layouts.are_unchanged(slot) for layouts, slot in zip(self.layouts[1:], self.slots))

    def batch(self) -> TorchBatch | None:
        """Return the parameters that have a gradient now; None if this part is out of date.

        It is if a parameter has moved, or a gradient has another type than before.

        Raises:
            RuntimeError: a gradient does not fit its parameter.
        """
        present = local_gradients(self.shards) if self.shards else [p.grad for p in self.params]
        if self.params_moved():
            return None
        gradients = cast("list[Tensor]", present)  # a None among them differs from any tensor
        pointers = self.layouts[0].pointers_of_likes(gradients, self.dtype) if self.plain else None
        owners: Sequence[int] = range(len(present))
        active: list[int] | None = None
        if pointers is None:  # a gradient is missing, or is laid out unlike its parameter
            owners = [k for k, g in enumerate(present) if g is not None]
            if len(owners) < len(present):
                active, gradients = owners, [gradients[k] for k in owners]
                if self.plain:
                    pointers = self.layouts[0].select(active).pointers_of_likes(gradients, self.dtype)
        if pointers is None:
            pairs = zip(owners, gradients, strict=True)
            gradients = [conform_gradient(self.params[k], g, self.names[k]) for k, g in pairs]
            if any(g.dtype != self.dtype for g in gradients):
                return None
            pointers = [g.data_ptr() for g in gradients] if self.plain else [0] * len(gradients)
        batch = TorchBatch(self, gradients, None if active is None else np.array(active, dtype=np.int64))
        batch.table[:, 0] = pointers
        return batch


def _kind(p: Tensor) -> tuple[Any, ...]:
    return type(p), p.shape, p.dtype, p.device


@final
class TorchBatch(StepBatch):
    """Parameters of one part that have a gradient in this step.

    Args:
        part: the part that the parameters belong to.
        gradients: their gradients, in the parameters' memory layouts; held, so that they are not freed meanwhile.
        active: (n,) the parameters' positions in the part; None for all.
    """

    def __init__(self, part: Part, gradients: list[Tensor], active: Int64s | None) -> None:
        self.part, self.spec, self.engine, self.group = part, part.spec, part.engine, part.only_group
        self.gradients, self.active = gradients, active
        self.members, self.table = part.members, part.table
        if active is None:
            self.lengths_key = part.lengths_key
        else:
            self.members, self.table = part.members[active], part.table[active]
        self.threads = torch.get_num_threads()

    def select_active(self, column: Sequence[Any]) -> Sequence[Any]:
        """Return the entries of a column of the part that belong to this batch."""
        return column if self.active is None or not column else [column[i] for i in self.active]

    @property
    def params(self) -> Sequence[Tensor]:
        """The parameters."""
        return self.select_active(self.part.params)

    @property
    def names(self) -> Sequence[str]:
        return self.select_active(self.part.names)

    def watch(self, detail: Detail) -> None:
        if self.active is None:
            self.labels = self.part.labels[detail]
        else:
            groups = self.part.groups[self.active]
            elements = self.part.labels["parameters"].elements[self.active]
            self.labels = RowLabels.of(detail, self.names, self.members, groups, elements)
        self.owners, self.owners_key = self.labels.owners, self.labels.key

    @property
    def versioned(self) -> list[Tensor]:
        """The parameters that have a version counter; those made in inference mode have none."""
        if self.active is None:
            return self.part.versioned
        shards = (shard.parameter for shard in self.select_active(self.part.shards))
        return [p for p in (*self.params, *shards) if not p.is_inference()]

    @property
    def columns(self) -> Sequence[Sequence[Tensor]]:
        return [self.gradients, self.params, *map(self.select_active, self.part.slots)]

    def arrays(self) -> Sequence[Sequence[NDArray[Any]]]:
        return [[array_of(t) for t in column] for column in self.columns]

    def find_nonfinite(self) -> Iterator[int]:
        return (k for k, g in enumerate(self.gradients) if not bool(g.isfinite().all()))

    def largest_gradient(self) -> float:
        return max((float(g.abs().max()) for g in self.gradients if g.numel()), default=0.0)

    def sum_squares(self, divisor: float) -> float:
        return sum(float((g / divisor).abs().square().sum()) for g in self.gradients)


# -- layouts in memory, read by a compiled loop ------------------------------------------------------------------------

_SWITCHED_OFF = is_switched_off("GRADSTEP_NATIVE")  # read once: an unknown value is an error before any step

TESTED = ((2, 13),)
"""The releases of torch that the loop was tested with (``tools/matrix``)."""

DATA_POINTER, DTYPE, NUMEL, GEOMETRY, DEVICE = COLUMNS = range(5)
"""The columns of :func:`read_layouts`. DATA_POINTER is 0 if a tensor's storage is smaller than its elements. GEOMETRY
is a hash of shape and strides (the stride of an axis of length 1 does not count). DTYPE and DEVICE are torch's numbers.
DTYPE is −1 if a kernel cannot read the tensor's memory directly: the tensor is sparse, a subclass, or negated
lazily."""

_READ, _COMPARE = -3, -2
"""Values of the loop's argument ``dtype`` that are no dtype: read all rows, or compare with them."""

_FIELDS = (
    *("data_ptr", "numel", "dtype", "device_type", "layout", "dim", "sizes", "strides"),
    *("storage_size", "storage_offset"),
)
_CALLS = ("PyList_GetItem", "PyObject_Type", "PyObject_GetAttr", "PyObject_CallOneArg", "PyLong_AsVoidPtr", "Py_DecRef")
_OBJECTS = {"false": False, "cdata": sys.intern("_cdata"), "is_neg": Tensor.is_neg}
_OBJECTS |= {f"type{k}": kind for k, kind in enumerate(sorted(PLAIN, key=str))}

_MIX = 0x9E3779B97F4A7C15 - 2**64
"""2⁶⁴ divided by the golden ratio, odd: spreads small integers over 64 bits."""


def is_native() -> bool:
    """Return whether layouts are read by the compiled loop."""
    return _loop() is not None


def read_layouts(tensors: list[Tensor]) -> Int64s:
    """Return (n, 5) the layout of each tensor.

    >>> x = torch.zeros(2, 3)
    >>> rows = read_layouts([x, x.t(), x[:0]])
    >>> rows[:, NUMEL].tolist(), bool(rows[0, DATA_POINTER] == x.data_ptr())
    ([6, 6, 0], True)
    >>> bool(rows[0, GEOMETRY] == rows[1, GEOMETRY])
    False
    """
    rows = np.empty((len(tensors), len(COLUMNS)), dtype=np.int64)
    _run(tensors, rows.ctypes.data, _READ, 0)
    return rows


@final
@dataclass(frozen=True)
class NativeLayouts:
    """The memory layouts of several real tensors, with :class:`gradstep.optimizers.memory.Layouts`' methods.

    Attributes:
        rows: (n, 5) from :func:`read_layouts`.
    """

    rows: Int64s

    @staticmethod
    def of(tensors: Sequence[Tensor]) -> NativeLayouts:
        """Read the layouts of plain tensors."""
        return NativeLayouts(read_layouts(list(tensors)))

    @property
    def pointers(self) -> Int64s:
        """(n,) address of the first element of each; 0 without memory."""
        return self.rows[:, DATA_POINTER]

    @cached_property
    def _gradient_pointers(self) -> Int64s:
        """(n,) the array that :meth:`pointers_of_likes` writes at every step."""
        return np.empty(len(self.rows), dtype=np.int64)

    @cached_property
    def _addresses(self) -> tuple[int, int]:
        """The addresses of :attr:`rows` and of the array that receives pointers; every step needs both."""
        return self.rows.ctypes.data, self._gradient_pointers.ctypes.data

    def are_unchanged(self, tensors: list[Tensor]) -> bool:
        """As :meth:`Layouts.are_unchanged <gradstep.optimizers.memory.Layouts.are_unchanged>`."""
        return len(tensors) == len(self.rows) and _run(tensors, self._addresses[0], _COMPARE, 0)

    def pointers_of_likes(self, tensors: list[Tensor], dtype: torch.dtype) -> Int64s | None:
        """As :class:`Layouts <gradstep.optimizers.memory.Layouts>` does; the next call overwrites the result."""
        rows, pointers = self._addresses
        if not _run(tensors, rows, _number_of(dtype), pointers):
            return None
        if not self._gradient_pointers.all() and any(map(lacks_memory, tensors)):
            return None
        return self._gradient_pointers

    def select(self, positions: Sequence[int]) -> NativeLayouts:
        """Return the layouts at these positions."""
        return NativeLayouts(self.rows[positions])


@cache
def _number_of(dtype: torch.dtype) -> int:
    return int(read_layouts([torch.empty(0, dtype=dtype, device="cpu")])[0, DTYPE])


def _run(tensors: list[Tensor], rows: int, dtype: int, pointers: int) -> bool:
    """Run the loop; return whether it reached the end. It stops at the first tensor that differs from its row."""
    loop = _loop()
    assert loop is not None
    return loop(len(tensors), tensors, rows, dtype, pointers) == len(tensors)


@cache
def _loop() -> Callable[[int, list[Tensor], int, int, int], int] | None:
    """Compile ``int64 task(int64 count, list tensors, int64 rows[][5], int64 dtype, int64 *pointers)``, if possible.

    With dtype _READ the task writes the rows. Otherwise it returns the position of the first tensor that differs from
    its row. With _COMPARE every column counts. With the number of a dtype, that dtype and the last three columns
    count, and each DATA_POINTER is written to ``pointers``.

    Returns:
        The task; None if the loop is switched off or torch is another version, so that Python must read layouts.
    """
    release = tuple(int(part) for part in torch.__version__.split(".")[:2])
    if _SWITCHED_OFF or release not in TESTED:
        return None
    name = {"win32": "torch_cpu.dll", "darwin": "libtorch_cpu.dylib"}.get(sys.platform, "libtorch_cpu.so")
    try:
        library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / name))
        functions = {field: getattr(library, f"aoti_torch_get_{field}") for field in _FIELDS}
        functions |= {"element_size": library.aoti_torch_dtype_element_size}
        functions |= {call: getattr(ctypes.pythonapi, call) for call in _CALLS}
    except (OSError, AttributeError):
        return None
    from gradstep.engines.fused.skeleton import compile_module

    addresses = {field: ctypes.cast(at, ctypes.c_void_p).value or 0 for field, at in functions.items()}
    objects = {name: ctypes.c_void_p.from_buffer(ctypes.py_object(it)).value or 0 for name, it in _OBJECTS.items()}
    # PYFUNCTYPE keeps Python's lock, so that no other thread changes a tensor meanwhile, and raises Python's errors.
    kind = ctypes.PYFUNCTYPE(
        ctypes.c_int64, ctypes.c_int64, ctypes.py_object, ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p
    )
    used = {name: f"inttoptr (i64 {address} to ptr)" for name, address in {**addresses, **objects}.items()}
    constants = {"read": _READ, "compare": _COMPARE, "multiplier": _MIX}
    source = Path(__file__).with_name("read_layouts.ll").read_text(encoding="utf-8")
    return kind(compile_module(Template(source).substitute(used, **constants)))

"""The memory layouts of many tensors, read by a small compiled loop through torch's stable C interface.

Python reads one property of one tensor at a time and needs about a microsecond for a parameter with its gradient,
longer than the update of a small tensor. torch's ``aoti_torch_get_*`` functions take nanoseconds. They are the C
interface that torch keeps stable for compiled models; a handle is the address of a cell that holds a tensor's
``_cdata``. The loop gets ``_cdata``, the tensor's type and its ``is_neg()`` through Python's own C interface. Only the
fused engine uses it, and only with the versions of torch that it was tested with. ``GRADSTEP_NATIVE=0`` in the
environment switches it off; :class:`gradstep.optimizers.memory.Layouts`, in Python, takes its place.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import final

import numpy as np
import torch
from torch import Tensor

from gradstep.engines.base import Int64s
from gradstep.optimizers.memory import PLAIN, lacks_memory

TESTED = ((2, 13),)
"""The releases of torch that the loop was tested with (``tools/matrix``)."""

POINTER, DTYPE, NUMEL, GEOMETRY, DEVICE = COLUMNS = range(5)
"""The columns of :func:`read_layouts`. POINTER is 0 if a tensor's storage is smaller than its elements. GEOMETRY is a
hash of shape and strides (the stride of an axis of length 1 does not count). DTYPE and DEVICE are torch's numbers.
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
    >>> rows[:, NUMEL].tolist(), bool(rows[0, POINTER] == x.data_ptr()), bool(rows[0, GEOMETRY] == rows[1, GEOMETRY])
    ([6, 6, 0], True, False)
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
        return self.rows[:, POINTER]

    @cached_property
    def _gradient_pointers(self) -> Int64s:
        """(n,) the array that :meth:`pointers_of_likes` writes at every step."""
        return np.empty(len(self.rows), dtype=np.int64)

    @cached_property
    def _addresses(self) -> tuple[int, int]:
        """The addresses of :attr:`rows` and of the array that receives pointers; every step needs both."""
        return self.rows.ctypes.data, self._gradient_pointers.ctypes.data

    def still_hold(self, tensors: list[Tensor]) -> bool:
        """As :meth:`Layouts.still_hold <gradstep.optimizers.memory.Layouts.still_hold>`."""
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
    count, and each POINTER is written to ``pointers``.

    Returns:
        The task; None if the loop is switched off or torch is another version, so that Python must read layouts.
    """
    release = tuple(int(part) for part in torch.__version__.split(".")[:2])
    if os.environ.get("GRADSTEP_NATIVE") == "0" or release not in TESTED:
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
    return kind(compile_module(_write_llvm(addresses, objects)))


def _write_llvm(addresses: dict[str, int], objects: dict[str, int]) -> str:
    """Return the loop as LLVM IR, with the addresses of the functions and objects that it uses."""
    at = {name: f"inttoptr (i64 {address} to ptr)" for name, address in {**addresses, **objects}.items()}
    get = {field: f"call i32 {at[field]}(ptr %cell, ptr" for field in _FIELDS}
    call = {name: f"call {'void' if name == 'Py_DecRef' else 'ptr'} {at[name]}" for name in _CALLS}
    mix = "{0}x = xor i64 {1}, {2}\n{0}m = mul i64 {0}x, {3}\n{0}s = lshr i64 {0}m, 29\n{0} = xor i64 {0}m, {0}s"
    row = "\n".join(f"  %{name} = getelementptr i64, ptr %row, i64 {k}" for name, k in _ROW.items())
    return f"""
define internal void @read_layout(ptr %list, i64 %i, ptr %row) {{
entry:
  %cell = alloca ptr
  %long = alloca i64
  %int = alloca i32
  %address = alloca ptr
{row}
  store [5 x i64] [i64 0, i64 -1, i64 0, i64 0, i64 0], ptr %row
  %tensor = {call["PyList_GetItem"]}(ptr %list, i64 %i)
  %type = {call["PyObject_Type"]}(ptr %tensor)
  {call["Py_DecRef"]}(ptr %type)
  %is0 = icmp eq ptr %type, {at["type0"]}
  %is1 = icmp eq ptr %type, {at["type1"]}
  %plain = or i1 %is0, %is1
  br i1 %plain, label %sign, label %done
sign:
  ; This call releases Python's lock, so the memory is read after it.
  %neg = {call["PyObject_CallOneArg"]}(ptr {at["is_neg"]}, ptr %tensor)
  {call["Py_DecRef"]}(ptr %neg)
  %cdata = {call["PyObject_GetAttr"]}(ptr %tensor, ptr {at["cdata"]})
  %handle = {call["PyLong_AsVoidPtr"]}(ptr %cdata)
  {call["Py_DecRef"]}(ptr %cdata)
  store ptr %handle, ptr %cell
  %positive = icmp eq ptr %neg, {at["false"]}
  %exists = icmp ne ptr %handle, null
  %usual = and i1 %positive, %exists
  br i1 %usual, label %kind, label %done
kind:
  {get["layout"]} %int)
  %layout = load i32, ptr %int
  %strided = icmp eq i32 %layout, 0
  br i1 %strided, label %fields, label %done
fields:
  {get["data_ptr"]} %pointer)
  {get["numel"]} %numel)
  {get["dtype"]} %int)
  %dtype32 = load i32, ptr %int
  %dtype64 = sext i32 %dtype32 to i64
  store i64 %dtype64, ptr %dtype
  {get["device_type"]} %int)
  %device32 = load i32, ptr %int
  %device64 = sext i32 %device32 to i64
  store i64 %device64, ptr %device
  {get["dim"]} %long)
  %dim = load i64, ptr %long
  %start = xor i64 %dim, {_MIX}
  {get["sizes"]} %address)
  %sizes = load ptr, ptr %address
  {get["strides"]} %address)
  %strides = load ptr, ptr %address
  br label %axes
axes:
  %axis = phi i64 [0, %fields], [%axis1, %mix]
  %seed = phi i64 [%start, %fields], [%mixed, %mix]
  %reach = phi i64 [1, %fields], [%reach1, %mix]
  %within = icmp slt i64 %axis, %dim
  br i1 %within, label %mix, label %mixed_all
mix:
  %sizeat = getelementptr i64, ptr %sizes, i64 %axis
  %size = load i64, ptr %sizeat
  %strideat = getelementptr i64, ptr %strides, i64 %axis
  %rawstride = load i64, ptr %strideat
  %single = icmp eq i64 %size, 1
  %stride = select i1 %single, i64 0, i64 %rawstride
  {mix.format("%half", "%seed", "%size", _MIX)}
  {mix.format("%mixed", "%half", "%stride", _MIX)}
  %size1 = sub i64 %size, 1
  %further = mul i64 %size1, %rawstride
  %reach1 = add i64 %reach, %further
  %axis1 = add i64 %axis, 1
  br label %axes
mixed_all:
  store i64 %seed, ptr %geometry
  store i64 0, ptr %long
  {get["storage_size"]} %long)
  %bytes = load i64, ptr %long
  {get["storage_offset"]} %long)
  %offset = load i64, ptr %long
  %itemsize = call i64 {at["element_size"]}(i32 %dtype32)
  %last = add i64 %offset, %reach
  %needed = mul i64 %last, %itemsize
  %short = icmp slt i64 %bytes, %needed
  br i1 %short, label %too_short, label %done
too_short:
  store i64 0, ptr %pointer
  br label %done
done:
  ret void
}}
{_EACH}"""


_ROW = {"pointer": POINTER, "dtype": DTYPE, "numel": NUMEL, "geometry": GEOMETRY, "device": DEVICE}

_EACH = f"""
define i64 @task(i64 %count, ptr %list, ptr %rows, i64 %dtype, ptr %pointers) {{
entry:
  %now = alloca [5 x i64]
  %reads = icmp eq i64 %dtype, {_READ}
  %compares = icmp eq i64 %dtype, {_COMPARE}
  br label %next
next:
  %i = phi i64 [0, %entry], [%following, %alike]
  %more = icmp slt i64 %i, %count
  br i1 %more, label %one, label %end
one:
  %row = getelementptr [5 x i64], ptr %rows, i64 %i
  %target = select i1 %reads, ptr %row, ptr %now
  call void @read_layout(ptr %list, i64 %i, ptr %target)
  %is = load <5 x i64>, ptr %target, align 8
  %was = load <5 x i64>, ptr %row, align 8
  %equal = icmp eq <5 x i64> %is, %was
  %pointer = extractelement <5 x i64> %is, i64 {POINTER}
  %isdtype = extractelement <5 x i64> %is, i64 {DTYPE}
  br i1 %compares, label %all, label %likes
all:
  %same = call i1 @llvm.vector.reduce.and.v5i1(<5 x i1> %equal)
  br i1 %same, label %alike, label %end
likes:
  br i1 %reads, label %alike, label %like
like:
  %layout = shufflevector <5 x i1> %equal, <5 x i1> poison, <3 x i32> <i32 {NUMEL}, i32 {GEOMETRY}, i32 {DEVICE}>
  %fits = call i1 @llvm.vector.reduce.and.v3i1(<3 x i1> %layout)
  %typed = icmp eq i64 %isdtype, %dtype
  %good = and i1 %fits, %typed
  %place = getelementptr i64, ptr %pointers, i64 %i
  br i1 %good, label %write, label %end
write:
  store i64 %pointer, ptr %place
  br label %alike
alike:
  %following = add i64 %i, 1
  br label %next
end:
  ret i64 %i
}}
declare i1 @llvm.vector.reduce.and.v5i1(<5 x i1>)
declare i1 @llvm.vector.reduce.and.v3i1(<3 x i1>)
"""

"""The layouts of many tensors, read by a small compiled loop through torch's stable C interface.

Asked one property and one tensor at a time, Python needs about a microsecond for a parameter with its gradient, longer
than the update of a small tensor takes. torch's ``aoti_torch_get_*`` functions answer in nanoseconds. They are the C
interface that torch keeps stable for compiled models; a handle is the address of a cell that holds a tensor's
``_cdata``. The loop gets that, a tensor's type and its ``is_neg()`` through Python's own C interface. It is used by
the fused engine only, and only with the versions of torch that it was tested with. ``GRADSTEP_NATIVE=0`` in the
environment switches it off; :class:`gradstep.optimizers.step.memory.Layouts`, which asks from Python, takes its place.
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
from gradstep.optimizers.step.memory import PLAIN, lacks_memory

TESTED = ((2, 13),)
"""The releases of torch that the loop was tested with (``tools/matrix``)."""

POINTER, DTYPE, NUMEL, GEOMETRY, DEVICE = COLUMNS = range(5)
"""The columns of :func:`read`. POINTER is 0 if a tensor's storage does not reach as far as its elements. GEOMETRY is a
hash of shape and strides (of an axis of length 1 the stride does not count); DTYPE and DEVICE are torch's numbers. What
a kernel cannot read as it lies in memory has DTYPE −1: a tensor without strides (a sparse one), a subclass, or what is
negated lazily."""

_READ, _COMPARE = -3, -2
"""What the loop does if it is not given the number of a dtype."""

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


def read(tensors: list[Tensor]) -> Int64s:
    """Read (n, 5) the layout of each tensor.

    >>> x = torch.zeros(2, 3)
    >>> rows = read([x, x.t(), x[:0]])
    >>> rows[:, NUMEL].tolist(), bool(rows[0, POINTER] == x.data_ptr()), bool(rows[0, GEOMETRY] == rows[1, GEOMETRY])
    ([6, 6, 0], True, False)
    """
    rows = np.empty((len(tensors), len(COLUMNS)), dtype=np.int64)
    _run(tensors, rows.ctypes.data, _READ, 0)
    return rows


@final
@dataclass(frozen=True)
class NativeLayouts:
    """The memory of several tensors of real numbers, as :class:`gradstep.optimizers.step.memory.Layouts` has it.

    Attributes:
        rows: (n, 5) from :func:`read`.
    """

    rows: Int64s

    @staticmethod
    def of(tensors: Sequence[Tensor]) -> NativeLayouts:
        """Read the layouts of plain tensors."""
        return NativeLayouts(read(list(tensors)))

    @property
    def pointers(self) -> Int64s:
        """(n,) address of the first element of each; 0 if there is no memory."""
        return self.rows[:, POINTER]

    @cached_property
    def _gradient_pointers(self) -> Int64s:
        return np.empty(len(self.rows), dtype=np.int64)

    @cached_property
    def _addresses(self) -> tuple[int, int]:
        return self.rows.ctypes.data, self._gradient_pointers.ctypes.data

    def still_hold(self, tensors: list[Tensor]) -> bool:
        """As of :class:`gradstep.optimizers.step.memory.Layouts`."""
        return len(tensors) == len(self.rows) and _run(tensors, self._addresses[0], _COMPARE, 0)

    def pointers_of_likes(self, tensors: list[Tensor], dtype: torch.dtype) -> Int64s | None:
        """As of :class:`gradstep.optimizers.step.memory.Layouts`; the next call writes to the same array."""
        rows, found = self._addresses
        if not _run(tensors, rows, _number_of(dtype), found):
            return None
        if not self._gradient_pointers.all() and any(map(lacks_memory, tensors)):
            return None
        return self._gradient_pointers

    def select(self, positions: Sequence[int]) -> NativeLayouts:
        """The layouts at these positions."""
        return NativeLayouts(self.rows[positions])


@cache
def _number_of(dtype: torch.dtype) -> int:
    return int(read([torch.empty(0, dtype=dtype, device="cpu")])[0, DTYPE])


def _run(tensors: list[Tensor], rows: int, dtype: int, found: int) -> bool:
    """Run the loop; return whether it came to the end, as it does not where a tensor differs."""
    loop = _loop()
    assert loop is not None
    return loop(len(tensors), tensors, rows, dtype, found) == len(tensors)


@cache
def _loop() -> Callable[[int, list[Tensor], int, int, int], int] | None:
    """``int64 task(int64 count, list tensors, int64 rows[][5], int64 dtype, int64 *found)``; None where Python asks.

    With dtype _READ it writes the rows. Else it returns the position of the first tensor that differs from its row:
    with _COMPARE in anything; with the number of a dtype in that or in the last columns, and writes each POINTER to
    ``found``.
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
    from gradstep.engines.fused.jit import compile_module

    addresses = {field: ctypes.cast(at, ctypes.c_void_p).value or 0 for field, at in functions.items()}
    objects = {name: ctypes.c_void_p.from_buffer(ctypes.py_object(it)).value or 0 for name, it in _OBJECTS.items()}
    # PYFUNCTYPE keeps Python's lock, so that no other thread changes a tensor meanwhile, and raises Python's errors.
    kind = ctypes.PYFUNCTYPE(
        ctypes.c_int64, ctypes.c_int64, ctypes.py_object, ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p
    )
    return kind(compile_module(_write_llvm(addresses, objects)))


def _write_llvm(addresses: dict[str, int], objects: dict[str, int]) -> str:
    """The loop as LLVM's text."""
    at = {name: f"inttoptr (i64 {address} to ptr)" for name, address in {**addresses, **objects}.items()}
    ask = {field: f"call i32 {at[field]}(ptr %cell, ptr" for field in _FIELDS}
    call = {name: f"call {'void' if name == 'Py_DecRef' else 'ptr'} {at[name]}" for name in _CALLS}
    mix = "{0}x = xor i64 {1}, {2}\n{0}m = mul i64 {0}x, {3}\n{0}s = lshr i64 {0}m, 29\n{0} = xor i64 {0}m, {0}s"
    row = "\n".join(f"  %{name} = getelementptr i64, ptr %row, i64 {k}" for name, k in _ROW.items())
    return f"""
define internal void @ask(ptr %list, i64 %i, ptr %row) {{
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
  ; It lets go of Python's lock: so what is known of the memory comes after it.
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
  {ask["layout"]} %int)
  %layout = load i32, ptr %int
  %strided = icmp eq i32 %layout, 0
  br i1 %strided, label %ask, label %done
ask:
  {ask["data_ptr"]} %pointer)
  {ask["numel"]} %numel)
  {ask["dtype"]} %int)
  %dtype32 = load i32, ptr %int
  %dtype64 = sext i32 %dtype32 to i64
  store i64 %dtype64, ptr %dtype
  {ask["device_type"]} %int)
  %device32 = load i32, ptr %int
  %device64 = sext i32 %device32 to i64
  store i64 %device64, ptr %device
  {ask["dim"]} %long)
  %dim = load i64, ptr %long
  %start = xor i64 %dim, {_MIX}
  {ask["sizes"]} %address)
  %sizes = load ptr, ptr %address
  {ask["strides"]} %address)
  %strides = load ptr, ptr %address
  br label %axes
axes:
  %axis = phi i64 [0, %ask], [%axis1, %mix]
  %seed = phi i64 [%start, %ask], [%mixed, %mix]
  %reach = phi i64 [1, %ask], [%reach1, %mix]
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
  {ask["storage_size"]} %long)
  %bytes = load i64, ptr %long
  {ask["storage_offset"]} %long)
  %offset = load i64, ptr %long
  %itemsize = call i64 {at["element_size"]}(i32 %dtype32)
  %last = add i64 %offset, %reach
  %needed = mul i64 %last, %itemsize
  %short = icmp slt i64 %bytes, %needed
  br i1 %short, label %lacking, label %done
lacking:
  store i64 0, ptr %pointer
  br label %done
done:
  ret void
}}
{_EACH}"""


_ROW = {"pointer": POINTER, "dtype": DTYPE, "numel": NUMEL, "geometry": GEOMETRY, "device": DEVICE}

_EACH = f"""
define i64 @task(i64 %count, ptr %list, ptr %rows, i64 %dtype, ptr %found) {{
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
  call void @ask(ptr %list, i64 %i, ptr %target)
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
  %last = shufflevector <5 x i1> %equal, <5 x i1> poison, <3 x i32> <i32 {NUMEL}, i32 {GEOMETRY}, i32 {DEVICE}>
  %fits = call i1 @llvm.vector.reduce.and.v3i1(<3 x i1> %last)
  %typed = icmp eq i64 %isdtype, %dtype
  %good = and i1 %fits, %typed
  %place = getelementptr i64, ptr %found, i64 %i
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

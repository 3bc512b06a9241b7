"""The layouts of many tensors, read by a small compiled loop through torch's stable C interface.

Asked one property and one tensor at a time, Python needs about a microsecond for a parameter with its gradient, longer
than the update of a small tensor takes. torch's ``aoti_torch_get_*`` functions answer in nanoseconds. They are the C
interface that torch keeps stable for compiled models; a handle is the address of a cell that holds a tensor's
``_cdata``. The loop is used by the fused engine only, and only with the versions of torch that it was tested with.
``GRADSTEP_NATIVE=0`` in the environment switches it off; :class:`gradstep.optimizers.memory.Layouts`, which asks from
Python, takes its place.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from gradstep.engines.base import Int64s
from gradstep.optimizers.memory import PLAIN, holds_other_numbers, lacks_memory

TESTED = ((2, 13),)
"""The releases of torch that the loop was tested with (``tools/matrix``)."""

POINTER, NUMEL, GEOMETRY, DTYPE, DEVICE = range(5)
"""The columns of :func:`read`. GEOMETRY is a hash of shape and strides (of an axis of length 1 the stride does not
count); DTYPE and DEVICE are torch's numbers. A tensor without strides, a sparse one, has DTYPE −1."""

_FIELDS = ("data_ptr", "numel", "dtype", "device_type", "layout", "dim", "sizes", "strides")

_MIX = 0x9E3779B97F4A7C15 - 2**64
"""2⁶⁴ divided by the golden ratio, odd: spreads small integers over 64 bits."""


def is_native() -> bool:
    """Return whether layouts are read by the compiled loop."""
    return _loop() is not None


def read(tensors: Sequence[Tensor]) -> Int64s:
    """Read (n, 5) the layout of each tensor.

    >>> x = torch.zeros(2, 3)
    >>> rows = read([x, x.t(), x[:0]])
    >>> rows[:, NUMEL].tolist(), bool(rows[0, POINTER] == x.data_ptr()), bool(rows[0, GEOMETRY] == rows[1, GEOMETRY])
    ([6, 6, 0], True, False)
    """
    cells = np.array([t._cdata for t in tensors], dtype=np.int64)
    rows = np.empty((len(tensors), 5), dtype=np.int64)
    _loop()(len(cells), cells.ctypes.data, rows.ctypes.data)
    return rows


@final
@dataclass(frozen=True)
class NativeLayouts:
    """The memory of several tensors, as :class:`gradstep.optimizers.memory.Layouts` has it.

    Attributes:
        rows: (n, 5) from :func:`read`.
    """

    rows: Int64s

    @staticmethod
    def of(tensors: Sequence[Tensor]) -> NativeLayouts:
        """Read the layouts of plain tensors."""
        return NativeLayouts(read(tensors))

    @property
    def pointers(self) -> Int64s:
        """(n,) address of the first element of each; 0 if there is no memory."""
        return self.rows[:, POINTER]

    def still_hold(self, tensors: Sequence[Tensor]) -> bool:
        """Return whether the tensors still lie where they were when these layouts were read."""
        return np.array_equal(read(tensors), self.rows)

    def pointers_of_likes(self, tensors: Sequence[Tensor], dtype: torch.dtype) -> Int64s | None:
        """As of :class:`gradstep.optimizers.memory.Layouts`."""
        if not PLAIN.issuperset(map(type, tensors)):
            return None
        now, columns = read(tensors), [NUMEL, GEOMETRY, DEVICE]
        alike = np.array_equal(now[:, columns], self.rows[:, columns]) and bool(
            (now[:, DTYPE] == _number_of(dtype)).all()
        )
        if not alike or holds_other_numbers(tensors, dtype):
            return None
        nowhere = np.flatnonzero(now[:, POINTER] == 0).tolist()
        return None if any(lacks_memory(tensors[i]) for i in nowhere) else now[:, POINTER]

    def taken(self, positions: Sequence[int]) -> NativeLayouts:
        """The layouts at these positions."""
        return NativeLayouts(self.rows[positions])


@cache
def _number_of(dtype: torch.dtype) -> int:
    return int(read([torch.empty(0, dtype=dtype, device="cpu")])[0, DTYPE])


@cache
def _loop() -> Any:
    """``void task(int64 count, const int64 *cells, int64 rows[][5])``; None where Python asks instead."""
    release = tuple(int(part) for part in torch.__version__.split(".")[:2])
    if os.environ.get("GRADSTEP_NATIVE") == "0" or release not in TESTED:
        return None
    name = {"win32": "torch_cpu.dll", "darwin": "libtorch_cpu.dylib"}.get(sys.platform, "libtorch_cpu.so")
    try:
        library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / name))
        functions = [getattr(library, f"aoti_torch_get_{field}") for field in _FIELDS]
    except (OSError, AttributeError):
        return None
    from gradstep.engines.fused.jit import compile_module

    addresses = {f: ctypes.cast(at, ctypes.c_void_p).value or 0 for f, at in zip(_FIELDS, functions, strict=True)}
    # PYFUNCTYPE keeps Python's lock, so that no other thread changes a tensor meanwhile.
    kind = ctypes.PYFUNCTYPE(None, ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p)
    return kind(compile_module(_text(addresses)))


def _text(addresses: dict[str, int]) -> str:
    """The loop as LLVM's text."""
    ask = {field: f"call i32 inttoptr (i64 {address} to ptr)(ptr %cell, ptr" for field, address in addresses.items()}
    mix = "{0}x = xor i64 {1}, {2}\n{0}m = mul i64 {0}x, {3}\n{0}s = lshr i64 {0}m, 29\n{0} = xor i64 {0}m, {0}s"
    return f"""
define internal void @ask(ptr %cell, ptr %pointer) {{
entry:
  %long = alloca i64
  %int = alloca i32
  %address = alloca ptr
  %numel = getelementptr i64, ptr %pointer, i64 1
  %geometry = getelementptr i64, ptr %pointer, i64 2
  %dtype = getelementptr i64, ptr %pointer, i64 3
  %device = getelementptr i64, ptr %pointer, i64 4
  store i64 0, ptr %pointer
  store i64 0, ptr %numel
  store i64 0, ptr %geometry
  store i64 -1, ptr %dtype
  store i64 0, ptr %device
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
  {ask["sizes"]} %address)
  %sizes = load ptr, ptr %address
  {ask["strides"]} %address)
  %strides = load ptr, ptr %address
  br label %axes
axes:
  %axis = phi i64 [0, %ask], [%axis1, %mix]
  %seed = phi i64 [%dim, %ask], [%mixed, %mix]
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
  %axis1 = add i64 %axis, 1
  br label %axes
mixed_all:
  store i64 %seed, ptr %geometry
  br label %done
done:
  ret void
}}
{_EACH}"""


_EACH = """
define void @task(i64 %count, ptr %cells, ptr %rows) {
entry:
  br label %next
next:
  %i = phi i64 [0, %entry], [%following, %one]
  %more = icmp slt i64 %i, %count
  br i1 %more, label %one, label %end
one:
  %cell = getelementptr i64, ptr %cells, i64 %i
  %row = getelementptr [5 x i64], ptr %rows, i64 %i
  call void @ask(ptr %cell, ptr %row)
  %following = add i64 %i, 1
  br label %next
end:
  ret void
}
"""

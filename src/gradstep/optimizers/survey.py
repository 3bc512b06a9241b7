"""Where the memory of many tensors lies, and what is in it, asked anew at every step.

An optimizer that writes to addresses must know that they still hold: a parameter's data may have been moved, resized
or cast since the last step (``model.half()``, pruning, ``p.data = ...``). Asked one attribute and one tensor at a time,
Python needs longer for this than the update of a small tensor takes. torch's C interface (its ``aoti_torch_get_*``
functions, stable across releases) answers in nanoseconds, so the questions are put by a small compiled loop. Where
that interface is missing, or a tensor's C++ side is not found in its Python object, Python asks.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gradstep.engines.base import Int64s

POINTER, NUMEL, GEOMETRY, DTYPE, DEVICE = range(5)
"""The columns of :func:`facts`. GEOMETRY is equal for equal shapes with equal strides; all but POINTER and NUMEL are
only to be compared with other facts. A tensor without strides (a sparse one) has DTYPE -1."""

_FIELDS = ("data_ptr", "numel", "dtype", "device_type", "layout", "dim", "sizes", "strides")
_MIX = 0x9E3779B97F4A7C15 - 2**64  # 2⁶⁴ divided by the golden ratio, odd: spreads small integers over 64 bits


def handles(tensors: Iterable[Tensor]) -> Int64s:
    """The Python object behind each tensor, good for as long as it lives."""
    return np.array(list(map(id, tensors)), dtype=np.int64)


def facts(columns: Sequence[Sequence[Tensor]], known_handles: Int64s | None = None) -> Int64s:
    """(n, 5) the present facts of the tensors of all columns, one column after the other.

    Args:
        columns: whom to ask about.
        known_handles: their :func:`handles`, if they are known.

    >>> x = torch.zeros(2, 3)
    >>> known = facts([[x, x.t(), x[:0]]])
    >>> known[:, NUMEL].tolist(), bool(known[0, POINTER] == x.data_ptr())
    ([6, 6, 0], True)
    >>> bool(known[0, GEOMETRY] == known[1, GEOMETRY])
    False
    """
    read = _reader()
    if read is None:
        return np.array([_asked(t) for column in columns for t in column], dtype=np.int64).reshape(-1, 5)
    return _read(read, handles(chain.from_iterable(columns)) if known_handles is None else known_handles)


def _asked(t: Tensor) -> tuple[int, int, int, int, int]:
    if t.layout != torch.strided:
        return 0, 0, 0, -1, 0
    geometry = t.dim()
    for size, stride in zip(t.shape, t.stride(), strict=True):
        geometry = _mixed(_mixed(geometry, size), 0 if size == 1 else stride)
    return t.data_ptr(), t.numel(), geometry, _code(t.dtype), _code(t.device.type)


def _mixed(seed: int, number: int) -> int:
    value = ((seed ^ number) * _MIX) % 2**64
    value ^= value >> 29
    return value - 2**64 if value >= 2**63 else value


@cache
def _code(thing: Any) -> int:
    return hash(thing) % 2**31


@cache
def _reader() -> Any:
    """The compiled loop, or None where torch does not offer what it needs."""
    name = {"win32": "torch_cpu.dll", "darwin": "libtorch_cpu.dylib"}.get(sys.platform, "libtorch_cpu.so")
    try:
        library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / name))
        questions = {f: getattr(library, f"aoti_torch_get_{f}") for f in _FIELDS}
    except (OSError, AttributeError):
        return None
    examples = [torch.zeros(2, 3).t(), torch.zeros(0), torch.nn.Parameter(torch.zeros(()))]
    place = _place(examples)
    if place is None:
        return None
    from gradstep.engines.fused.jit import compile_module

    addresses = {f: ctypes.cast(q, ctypes.c_void_p).value or 0 for f, q in questions.items()}
    # PYFUNCTYPE keeps Python's lock, so that no other thread changes a tensor meanwhile.
    read: Any = ctypes.PYFUNCTYPE(None, ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p)(
        compile_module(_loop(addresses, place))
    )
    answers = _read(read, handles(examples))[:, : GEOMETRY + 1].tolist()
    return read if answers == [list(_asked(t)[: GEOMETRY + 1]) for t in examples] else None


def _place(examples: Sequence[Tensor]) -> int | None:
    """Where in its Python object a tensor keeps its C++ ``at::Tensor``, which is one pointer: ``_cdata``."""
    for place in range(16, 64, 8):
        if all(ctypes.c_int64.from_address(id(t) + place).value == t._cdata for t in examples):
            return place
    return None


def _read(read: Any, objects: Int64s) -> Int64s:
    result = np.empty((len(objects), 5), dtype=np.int64)
    read(len(objects), objects.ctypes.data, result.ctypes.data)
    return result


def _loop(addresses: dict[str, int], place: int) -> str:
    """``void task(int64 count, const int64 *handles, int64 *results)`` as LLVM's text."""
    ask = {field: f"call i32 inttoptr (i64 {address} to ptr)(ptr %cell, ptr" for field, address in addresses.items()}
    mix = "{0}x = xor i64 {1}, {2}\n{0}m = mul i64 {0}x, {3}\n{0}s = lshr i64 {0}m, 29\n{0} = xor i64 {0}m, {0}s"
    return f"""
define void @task(i64 %count, ptr %handles, ptr %results) {{
entry:
  %long = alloca i64
  %int = alloca i32
  %address = alloca ptr
  br label %next
next:
  %i = phi i64 [0, %entry], [%following, %done]
  %more = icmp slt i64 %i, %count
  br i1 %more, label %look, label %end
look:
  %handle = getelementptr i64, ptr %handles, i64 %i
  %object = load ptr, ptr %handle
  %cell = getelementptr i8, ptr %object, i64 {place}
  %row = mul i64 %i, 5
  %pointer = getelementptr i64, ptr %results, i64 %row
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
  %following = add i64 %i, 1
  br label %next
end:
  ret void
}}
"""

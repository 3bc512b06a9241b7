"""The compiled loops of :mod:`gradstep.optimizers.survey`, as LLVM's text."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

MIX = 0x9E3779B97F4A7C15 - 2**64
"""2⁶⁴ divided by the golden ratio, odd: spreads small integers over 64 bits."""

_FIELDS = ("data_ptr", "numel", "dtype", "device_type", "layout", "dim", "sizes", "strides")


# As GCC and Clang call these. They are public in torch, but not of the interface that it keeps stable.
_GRAD = "_ZNK3c1010TensorImpl4gradEv"
"""``const at::Tensor &c10::TensorImpl::grad() const``."""
_BUMP = "_ZN5torch8autograd4impl12bump_versionERKN2at6TensorE"
"""``void torch::autograd::impl::bump_version(const at::Tensor &)``."""


_LINES = ((0,), (0, 64, 128), (0,), (0,), (0, 64, 128))
"""Which lines of the cache, in bytes from each column of the hints of a Look, its questions are about to read."""

_EARLY = 12
"""How many parameters earlier they are fetched. After a step they are nowhere near, and there are a dozen for each."""


class Loops(NamedTuple):
    """What the functions of :mod:`gradstep.optimizers.survey` call; None where torch does not offer it."""

    read: Any
    grad: Any
    look: Any
    drop: Any
    bump: Any


def compiled(examples: Sequence[Tensor]) -> Loops | None:
    """The loops; None where torch does not offer what they need.

    Args:
        examples: tensors to find out with where their C++ side is.
    """
    try:
        questions = {f: _found("torch_cpu", f"aoti_torch_get_{f}") for f in _FIELDS}
    except (OSError, AttributeError):
        return None
    place = _place(examples)
    if place is None:
        return None
    from gradstep.engines.fused.jit import compile_module

    # PYFUNCTYPE keeps Python's lock, so that no other thread changes a tensor or a list meanwhile.
    ask, number, thing = _CELL.format(place=place) + _ask(questions), ctypes.c_int64, ctypes.c_void_p
    each = ctypes.PYFUNCTYPE(None, number, thing, thing)
    read = each(compile_module(ask + _EACH.format(call="@ask(ptr %cell, ptr %row)")))
    try:
        grad, bump = _found("c10", _GRAD), _found("torch_cpu", _BUMP)
        hold, drop = (_found("torch_cpu", f"aoti_torch_{f}") for f in ("new_tensor_handle", "delete_tensor_object"))
    except (OSError, AttributeError):
        return Loops(read, None, None, None, None)
    entry = _address(ctypes.pythonapi.PyList_GetItem)
    where = ctypes.PYFUNCTYPE(thing, thing)(grad)
    names = {"entry": entry, "grad": grad, "undefined": _undefined(where), "hold": hold, "early": _EARLY}
    look = compile_module(ask + _fetch() + _LOOK.format(**names))
    dropped = compile_module(ask + _EACH.format(call=f"inttoptr (i64 {drop} to ptr)(ptr %object)"))
    bumped = compile_module(ask + _EACH.format(call=f"inttoptr (i64 {bump} to ptr)(ptr %cell)"))
    return Loops(read, where, ctypes.PYFUNCTYPE(number, thing, thing, thing)(look), each(dropped), each(bumped))


def _found(library: str, function: str) -> int:
    """The address of a function of one of torch's libraries."""
    name = {"win32": f"{library}.dll", "darwin": f"lib{library}.dylib"}.get(sys.platform, f"lib{library}.so")
    return _address(getattr(ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / name)), function))


def _undefined(grad: Callable[[int], int]) -> int:
    """What a tensor without gradient has in its place."""
    return ctypes.c_int64.from_address(grad(torch.zeros(0)._cdata)).value


def _address(function: Any) -> int:
    return ctypes.cast(function, ctypes.c_void_p).value or 0


def _place(examples: Sequence[Tensor]) -> int | None:
    """Where in its Python object a tensor keeps its C++ ``at::Tensor``, which is one pointer: ``_cdata``."""
    for place in range(16, 64, 8):
        if all(ctypes.c_int64.from_address(id(t) + place).value == t._cdata for t in examples):
            return place
    return None


def _ask(addresses: dict[str, int]) -> str:
    """``void ask(at::Tensor *cell, int64 row[5])`` as LLVM's text."""
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
  {mix.format("%half", "%seed", "%size", MIX)}
  {mix.format("%mixed", "%half", "%stride", MIX)}
  %axis1 = add i64 %axis, 1
  br label %axes
mixed_all:
  store i64 %seed, ptr %geometry
  br label %done
done:
  ret void
}}
"""


def _fetch() -> str:
    """``void fetch(const int64 hints[5])``: have their lines of the cache fetched; nothing need be there."""
    body = []
    for column, offsets in enumerate(_LINES):
        body.append(f"  %at{column} = getelementptr i64, ptr %hints, i64 {column}")
        body.append(f"  %hint{column} = load ptr, ptr %at{column}")
        for offset in offsets:
            line = f"%line{column}x{offset}"
            body.append(f"  {line} = getelementptr i8, ptr %hint{column}, i64 {offset}")
            body.append(f"  call void @llvm.prefetch.p0(ptr {line}, i32 0, i32 3, i32 1)")
    head = "declare void @llvm.prefetch.p0(ptr, i32, i32, i32)\ndefine internal void @fetch(ptr %hints) {"
    return "\n".join([head, *body, "  ret void", "}"])


_CELL = """
define internal ptr @cell_of(ptr %object) {{
  %cell = getelementptr i8, ptr %object, i64 {place}
  ret ptr %cell
}}
"""

# void task(int64 count, PyObject **tensors, int64 rows[][5])
_EACH = """
define void @task(i64 %count, ptr %handles, ptr %rows) {{
entry:
  br label %next
next:
  %i = phi i64 [0, %entry], [%following, %one]
  %more = icmp slt i64 %i, %count
  br i1 %more, label %one, label %end
one:
  %handle = getelementptr i64, ptr %handles, i64 %i
  %object = load ptr, ptr %handle
  %row = getelementptr [5 x i64], ptr %rows, i64 %i
  %cell = call ptr @cell_of(ptr %object)
  call void {call}
  %following = add i64 %i, 1
  br label %next
end:
  ret void
}}
"""

# int64 task(const int64 *job, PyObject *params, AtenTensorHandle *held): a job holds the count, the addresses of the
# arrays of a Look in their order, and the width of its table. PyList_GetItem returns a borrowed reference.
_LOOK = """
define i64 @task(ptr %job, ptr %params, ptr %held) {{
entry:
  %found = alloca [5 x i64]
  %count = load i64, ptr %job
  %job1 = getelementptr i64, ptr %job, i64 1
  %job2 = getelementptr i64, ptr %job, i64 2
  %job3 = getelementptr i64, ptr %job, i64 3
  %job4 = getelementptr i64, ptr %job, i64 4
  %job5 = getelementptr i64, ptr %job, i64 5
  %job6 = getelementptr i64, ptr %job, i64 6
  %job7 = getelementptr i64, ptr %job, i64 7
  %positions = load ptr, ptr %job1
  %handles = load ptr, ptr %job2
  %knowns = load ptr, ptr %job3
  %wanteds = load ptr, ptr %job4
  %hints = load ptr, ptr %job5
  %table = load ptr, ptr %job6
  %width = load i64, ptr %job7
  %last = sub i64 %count, 1
  br label %next
next:
  %i = phi i64 [0, %entry], [%following, %done]
  %before = phi i64 [0, %entry], [%answer, %done]
  %more = icmp slt i64 %i, %count
  br i1 %more, label %one, label %end
one:
  %early = add i64 %i, {early}
  %within = icmp slt i64 %early, %last
  %ahead = select i1 %within, i64 %early, i64 %last
  %coming = getelementptr [5 x i64], ptr %hints, i64 %ahead
  call void @fetch(ptr %coming)
  %positionat = getelementptr i64, ptr %positions, i64 %i
  %position = load i64, ptr %positionat
  %handleat = getelementptr ptr, ptr %handles, i64 %i
  %handle = load ptr, ptr %handleat
  %p = call ptr inttoptr (i64 {entry} to ptr)(ptr %params, i64 %position)
  %other = icmp ne ptr %p, %handle
  br i1 %other, label %moved, label %askp
moved:
  br label %done
askp:
  %pcell = call ptr @cell_of(ptr %p)
  call void @ask(ptr %pcell, ptr %found)
  %known = getelementptr [5 x i64], ptr %knowns, i64 %i
  %pv = load <4 x i64>, ptr %found, align 8
  %kv = load <4 x i64>, ptr %known, align 8
  %pd = xor <4 x i64> %pv, %kv
  %p4at = getelementptr i64, ptr %found, i64 4
  %k4at = getelementptr i64, ptr %known, i64 4
  %p4 = load i64, ptr %p4at
  %k4 = load i64, ptr %k4at
  %p4d = xor i64 %p4, %k4
  %pr = call i64 @llvm.vector.reduce.or.v4i64(<4 x i64> %pd)
  %pdiff = or i64 %pr, %p4d
  %pmoved = icmp ne i64 %pdiff, 0
  %pflag = zext i1 %pmoved to i64
  %impl = load ptr, ptr %pcell
  %heldat = getelementptr ptr, ptr %held, i64 %i
  %g = call ptr inttoptr (i64 {grad} to ptr)(ptr %impl)
  %gimpl = load ptr, ptr %g
  %seen = getelementptr [5 x i64], ptr %hints, i64 %i, i64 4
  store ptr %gimpl, ptr %seen
  %isnone = icmp eq ptr %gimpl, inttoptr (i64 {undefined} to ptr)
  br i1 %isnone, label %nogradient, label %askg
nogradient:
  %pflag2 = or i64 %pflag, 2
  br label %done
askg:
  %unheld = call i32 inttoptr (i64 {hold} to ptr)(ptr %g, ptr %heldat)
  call void @ask(ptr %g, ptr %found)
  %wanted = getelementptr [5 x i64], ptr %wanteds, i64 %i
  %g1at = getelementptr i64, ptr %found, i64 1
  %w1at = getelementptr i64, ptr %wanted, i64 1
  %gv = load <4 x i64>, ptr %g1at, align 8
  %wv = load <4 x i64>, ptr %w1at, align 8
  %gd = xor <4 x i64> %gv, %wv
  %gdiff = call i64 @llvm.vector.reduce.or.v4i64(<4 x i64> %gd)
  %godd = icmp ne i64 %gdiff, 0
  %gflag = select i1 %godd, i64 2, i64 0
  %both = or i64 %pflag, %gflag
  %address = load i64, ptr %found
  %row = mul i64 %i, %width
  %place = getelementptr i64, ptr %table, i64 %row
  store i64 %address, ptr %place
  br label %done
done:
  %flags = phi i64 [1, %moved], [%pflag2, %nogradient], [%both, %askg]
  %answer = or i64 %before, %flags
  %following = add i64 %i, 1
  br label %next
end:
  ret i64 %before
}}
declare i64 @llvm.vector.reduce.or.v4i64(<4 x i64>)
"""

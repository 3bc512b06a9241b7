"""Measure this machine's memory speed with loops that have the traffic of an AdamW step.

The loops share only the compiler and the threads with the fused engine. They go over four arrays, read all four and
write three (28 bytes for each float32 parameter); each thread has its own stretch. The fastest loop differs between
processors; it sets the limit.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import final

import numpy as np
import torch
from torch import Tensor

from gradstep.engines.fused.launcher import run
from gradstep.engines.fused.skeleton import compile_module

VECTOR_LANES = 16
BYTES = 28
"""Bytes moved for each element: four float32 arrays read, three written."""

AHEAD = 16
"""Distance of a prefetch, in vectors: 1 KiB of each array."""


@final
@dataclass(frozen=True)
class Loop:
    """A loop over a thread's stretch of the arrays."""

    places: int  # number of parts of the stretch that are read in turns
    prefetch: bool  # whether each cache line is prefetched

    def __str__(self) -> str:
        return f"{self.places} place{'s' * (self.places > 1)}{', prefetch' * self.prefetch}"


LOOPS = tuple(Loop(places, prefetch) for prefetch in (False, True) for places in (1, 2, 4))

KERNEL = """
declare void @llvm.prefetch.p0(ptr, i32, i32, i32)

define void @task(ptr %job) {{
entry:
  %counter = load ptr, ptr %job
{loads}
  %me = atomicrmw add ptr %counter, i64 1 monotonic
  %next = add i64 %me, 1
  %before = mul i64 %vectors, %me
  %after = mul i64 %vectors, %next
  %start = udiv i64 %before, %threads
  %stop = udiv i64 %after, %threads
  %length = sub i64 %stop, %start
  %part = udiv i64 %length, {places}
  %whole = mul i64 %part, {places}
  %rest = add i64 %start, %whole
  br label %head
head:
  %k = phi i64 [ 0, %entry ], [ %k.next, %body ]
  %more = icmp ult i64 %k, %part
  br i1 %more, label %body, label %rest.head
body:
{bodies}
  %k.next = add i64 %k, 1
  br label %head
rest.head:
  %r.i = phi i64 [ %rest, %head ], [ %r.next, %rest.body ]
  %r.more = icmp ult i64 %r.i, %stop
  br i1 %r.more, label %rest.body, label %done
rest.body:
{last}
  %r.next = add i64 %r.i, 1
  br label %rest.head
done:
  ret void
}}
"""

LOAD = """
  %{name}.at = getelementptr i64, ptr %job, i64 {place}
  %{name} = load {kind}, ptr %{name}.at
"""

WHERE = """
  %{n}.begin = mul i64 %part, {place}
  %{n}.from = add i64 %start, %{n}.begin
  %{n}.i = add i64 %{n}.from, %k
"""

ADDRESS = "  %{n}.{array}.i = getelementptr <16 x float>, ptr %{array}, i64 %{n}.i\n"

PREFETCH_LINES = """
  %{n}.{array}.ahead = getelementptr <16 x float>, ptr %{n}.{array}.i, i64 {ahead}
  call void @llvm.prefetch.p0(ptr %{n}.{array}.ahead, i32 0, i32 3, i32 1)
"""

READ = "  %{n}.{array} = load <16 x float>, ptr %{n}.{array}.i, align 4\n"
ADD = "  %{n}.{array}.new = fadd <16 x float> %{n}.{array}, %{n}.g\n"
WRITE = "  store <16 x float> %{n}.{array}.new, ptr %{n}.{array}.i, align 4\n"


def kernel_text(loop: Loop) -> str:
    """Return the loop as LLVM IR."""

    def body(n: str) -> str:
        lines = [
            (ADDRESS, "pgmv"),
            (PREFETCH_LINES, "pgmv" * loop.prefetch),
            (READ, "pgmv"),
            (ADD, "pmv"),
            (WRITE, "pmv"),
        ]
        return "".join(line.format(n=n, array=array, ahead=AHEAD) for line, arrays in lines for array in arrays)

    fields = [(name, "ptr") for name in "pgmv"] + [("vectors", "i64"), ("threads", "i64")]
    loads = "".join(LOAD.format(name=name, kind=kind, place=place) for place, (name, kind) in enumerate(fields, 1))
    bodies = "".join(WHERE.format(n=f"s{place}", place=place) + body(f"s{place}") for place in range(loop.places))
    return KERNEL.format(places=loop.places, loads=loads, bodies=bodies, last=body("r"))


@cache
def _kernel(loop: Loop) -> int:
    return compile_module(kernel_text(loop))


def make_loop(
    p: Tensor, g: Tensor, m: Tensor, v: Tensor, loop: Loop = LOOPS[0], threads: int | None = None
) -> Callable[[], None]:
    """Return a function that adds ``g`` to each of the other three tensors in place.

    Args:
        p, g, m, v: contiguous float32 tensors of one length, a multiple of 16.
        loop: the order of access.
        threads: number of threads; by default torch's.

    Raises:
        ValueError: the tensors differ in length, or are not contiguous float32, or have another length.
    """
    tensors = (p, g, m, v)
    if any(t.numel() != p.numel() or t.dtype != torch.float32 or not t.is_contiguous() for t in tensors):
        raise ValueError("the kernel takes four contiguous float32 tensors of one length")
    if p.numel() % VECTOR_LANES:
        raise ValueError(f"the kernel takes a multiple of {VECTOR_LANES} elements, not {p.numel()}")
    workers = torch.get_num_threads() if threads is None else threads
    kernel, counter = _kernel(loop), np.zeros(1, np.int64)
    addresses = [counter.ctypes.data, *(t.data_ptr() for t in tensors)]
    job = np.array([*addresses, p.numel() // VECTOR_LANES, workers], dtype=np.int64)

    def go() -> None:
        assert tensors  # keeps the tensors alive as long as this function
        counter[0] = 0
        run(kernel, job.ctypes.data, workers)

    return go

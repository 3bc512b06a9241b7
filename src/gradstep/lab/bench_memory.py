"""The speed of this machine's memory at the traffic of an AdamW step, by a kernel that does nothing else.

It shares nothing with the fused engine but the compiler and the threads: one plain loop over four arrays,
reading all and writing three (28 bytes for each float32 parameter), each thread on a stretch of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from torch import Tensor

from gradstep.engines.fused.jit import compile_module
from gradstep.engines.fused.threads import run

LANES = 16
BYTES = 28
"""Traffic of each element: four arrays read, three written."""

KERNEL = """
define void @task(ptr %job) {
entry:
  %counter = load ptr, ptr %job
  %p.at = getelementptr i64, ptr %job, i64 1
  %g.at = getelementptr i64, ptr %job, i64 2
  %m.at = getelementptr i64, ptr %job, i64 3
  %v.at = getelementptr i64, ptr %job, i64 4
  %vectors.at = getelementptr i64, ptr %job, i64 5
  %threads.at = getelementptr i64, ptr %job, i64 6
  %p = load ptr, ptr %p.at
  %g = load ptr, ptr %g.at
  %m = load ptr, ptr %m.at
  %v = load ptr, ptr %v.at
  %vectors = load i64, ptr %vectors.at
  %threads = load i64, ptr %threads.at
  %me = atomicrmw add ptr %counter, i64 1 monotonic
  %next = add i64 %me, 1
  %before = mul i64 %vectors, %me
  %after = mul i64 %vectors, %next
  %start = udiv i64 %before, %threads
  %stop = udiv i64 %after, %threads
  br label %head
head:
  %i = phi i64 [ %start, %entry ], [ %i.next, %body ]
  %more = icmp ult i64 %i, %stop
  br i1 %more, label %body, label %done
body:
  %p.i = getelementptr <16 x float>, ptr %p, i64 %i
  %g.i = getelementptr <16 x float>, ptr %g, i64 %i
  %m.i = getelementptr <16 x float>, ptr %m, i64 %i
  %v.i = getelementptr <16 x float>, ptr %v, i64 %i
  %p.old = load <16 x float>, ptr %p.i, align 4
  %g.now = load <16 x float>, ptr %g.i, align 4
  %m.old = load <16 x float>, ptr %m.i, align 4
  %v.old = load <16 x float>, ptr %v.i, align 4
  %p.new = fadd <16 x float> %p.old, %g.now
  %m.new = fadd <16 x float> %m.old, %g.now
  %v.new = fadd <16 x float> %v.old, %g.now
  store <16 x float> %p.new, ptr %p.i, align 4
  store <16 x float> %m.new, ptr %m.i, align 4
  store <16 x float> %v.new, ptr %v.i, align 4
  %i.next = add i64 %i, 1
  br label %head
done:
  ret void
}
"""


@cache
def _kernel() -> int:
    return compile_module(KERNEL)


def traffic(p: Tensor, g: Tensor, m: Tensor, v: Tensor, threads: int | None = None) -> Callable[[], None]:
    """A function that adds ``g`` to each of the other three in place, at the speed of memory.

    Args:
        p, g, m, v: contiguous float32 tensors of one length, a multiple of 16.
        threads: how many threads work; by default as many as torch's.

    Raises:
        ValueError: tensors that the kernel does not take.
    """
    tensors = (p, g, m, v)
    if any(t.numel() != p.numel() or t.dtype != torch.float32 or not t.is_contiguous() for t in tensors):
        raise ValueError("the kernel takes four contiguous float32 tensors of one length")
    if p.numel() % LANES:
        raise ValueError(f"the kernel takes a multiple of {LANES} elements, not {p.numel()}")
    workers = torch.get_num_threads() if threads is None else threads
    kernel, counter = _kernel(), np.zeros(1, np.int64)
    addresses = [counter.ctypes.data, *(t.data_ptr() for t in tensors)]
    job = np.array([*addresses, p.numel() // LANES, workers], dtype=np.int64)

    def go() -> None:
        assert tensors  # they live as long as this function
        counter[0] = 0
        run(kernel, job.ctypes.data, workers)

    return go

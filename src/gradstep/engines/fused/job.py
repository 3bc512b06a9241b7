"""What a kernel is given to do: tables of chunks and tensors, and the threads that run it.

The job is an array of int64: how many chunks were claimed and how many are done, how many there are, and of how many
tensors; then the addresses of the chunk table (`PER_CHUNK`), of the tensor table (an address per column, then
`PER_TENSOR`), of the coefficients, of the results per chunk, and of what they come to.
"""

from __future__ import annotations

import ctypes
from array import array
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any, cast, final

import numpy as np
from numpy.typing import NDArray

from gradstep.engines.base import Int64s, Pieces
from gradstep.engines.fused.threads import run

CHUNK = 16_384
"""Elements in a chunk, where there is little work: a few microseconds."""

LARGEST = 65_536
"""Where there is much. To begin a chunk costs time, the memory's above all: 4% of a step for four times as many."""

MANY = 128
"""Chunks that there shall be if they are larger than the smallest, for many threads to share."""

COUNTS = ("claimed", "done", "chunk_count", "tensor_count")
FIELDS = (*COUNTS, "chunks", "tensors", "coefficients", "results", "totals")
"""The fields of a job, in their order."""

PER_CHUNK = ("tensor", "start", "stop")
"""What the chunk table says of a chunk: its tensor, its first element and the one after its last."""

PER_TENSOR = ("length", "row", "key")
"""What the tensor table says of a tensor after its addresses: its elements, its row of coefficients, its noise."""

_PER_THREAD = 32_768  # elements worth waking another thread for


@final
@dataclass(frozen=True)
class Work:
    """What there is to do.

    Attributes:
        chunks: (chunks, PER_CHUNK).
        elements: of all chunks together.
        rooms: memory for what is found of every chunk, for whoever takes it; there are as many as there were threads
            in need of one at once.
    """

    chunks: Int64s
    elements: int
    rooms: list[NDArray[np.float64]] = field(default_factory=list)

    @cached_property
    def address(self) -> int:
        """Of the chunk table."""
        return address_of(self.chunks)


def launch(
    kernel: int,
    tensors: Int64s,
    work: Work,
    threads: int,
    coefficients: NDArray[np.floating[Any]] | None,
    results: NDArray[np.float64] | None = None,
    totals: NDArray[np.float64] | None = None,
) -> None:
    """Run the kernel at this address over chunks, and wait until it is done.

    Args:
        kernel: address of the compiled task.
        tensors: (n, columns + 3) the tensor table.
        work: the chunks.
        threads: how many may work; fewer do when there is little to do.
        coefficients: (rows, names) in the kernel's arithmetic, C-contiguous, if it takes any.
        results: where the kernel puts what it finds per chunk, if it finds anything; C-contiguous.
        totals: where it puts what they come to, if it adds them up; C-contiguous.
    """
    if work.elements == 0:
        return
    others = (0 if a is None else address_of(a) for a in (coefficients, results, totals))
    job = array("q", (0, 0, len(work.chunks), len(tensors), work.address, address_of(tensors), *others))
    run(kernel, job.buffer_info()[0], max(1, min(threads, len(work.chunks), work.elements // _PER_THREAD)))


def address_of(numbers: NDArray[Any]) -> int:
    """Where an array that owns its memory begins: NumPy's own way takes three times as long."""
    return ctypes.addressof(ctypes.c_char.from_buffer(cast("bytearray", numbers)))


@lru_cache(maxsize=16)  # the same at every step of an optimizer
def work_of(sizes: bytes) -> Work:
    """All elements of tensors of these lengths, given as int64."""
    lengths = np.frombuffer(sizes, dtype=np.int64)
    return parts_of(np.column_stack((np.arange(len(lengths)), np.zeros_like(lengths), lengths)))


def parts_of(pieces: Pieces) -> Work:
    """The elements of these pieces, in chunks whose size depends on nothing but how many they are: sums over them are
    the same for any number of threads.
    """
    tensor, start, stop = pieces.T
    elements = int((stop - start).sum())
    size = CHUNK
    while size < LARGEST and elements >= 2 * size * MANY:
        size *= 2
    counts = -(-(stop - start) // size)
    before = np.repeat(np.cumsum(counts) - counts, counts)
    first = np.repeat(start, counts) + (np.arange(len(before)) - before) * size
    last = np.minimum(first + size, np.repeat(stop, counts))
    return Work(np.column_stack((np.repeat(tensor, counts), first, last)), elements)

"""What a kernel is given to do: tables of chunks and tensors, and the threads that run it.

The job is an array of int64: the address of the counter, the number of chunks, and the addresses of the chunk table
(tensor, first element), of the tensor table (an address per column, then `PER_TENSOR`), of the coefficients, and of the
results per chunk.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from gradstep.engines.base import Int64s, Pieces
from gradstep.engines.fused.threads import run

CHUNK = 16_384
"""Elements per chunk: a few microseconds of work; every column of a chunk fits in a second-level cache."""

FIELDS = ("counter", "chunk_count", "chunks", "tensors", "coefficients", "results")
"""The fields of a job, in their order."""

PER_TENSOR = ("length", "row", "key")
"""What the tensor table says of a tensor after its addresses: its elements, its row of coefficients, its noise."""

_PER_THREAD = 32_768  # elements worth waking another thread for


@final
@dataclass(frozen=True)
class Work:
    """What there is to do.

    Attributes:
        chunks: (chunks, 2) the tensor and the first element of each.
        elements: of all chunks together.
    """

    chunks: Int64s
    elements: int


def launch(
    kernel: int,
    tensors: Int64s,
    work: Work,
    threads: int,
    coefficients: NDArray[np.floating[Any]],
    results: NDArray[np.float64],
) -> None:
    """Run the kernel at this address over chunks, and wait until it is done.

    Args:
        kernel: address of the compiled task.
        tensors: (n, columns + 3) the tensor table.
        work: the chunks.
        threads: how many may work; fewer do when there is little to do.
        coefficients: (rows, names) in the kernel's arithmetic, C-contiguous.
        results: (chunks, …) what the kernel finds per chunk, if it finds anything.
    """
    if work.elements == 0:
        return
    counter = np.zeros(1, np.int64)
    addresses = [array.ctypes.data for array in (counter, work.chunks, tensors, coefficients, results)]
    job = np.array([addresses[0], len(work.chunks), *addresses[1:]], dtype=np.int64)
    run(kernel, job.ctypes.data, max(1, min(threads, len(work.chunks), work.elements // _PER_THREAD)))


def work_of(lengths: Int64s) -> Work:
    """All elements of tensors of these lengths."""
    return _work(lengths.tobytes())


@lru_cache(maxsize=16)  # the same at every step of an optimizer
def _work(lengths: bytes) -> Work:
    sizes = np.frombuffer(lengths, dtype=np.int64)
    return parts_of(np.column_stack((np.arange(len(sizes)), np.zeros_like(sizes), sizes)))


def parts_of(pieces: Pieces) -> Work:
    """The elements of these pieces, each of which begins at a multiple of a chunk."""
    tensor, start, stop = pieces.T
    counts = -(-(stop - start) // CHUNK)
    before = np.repeat(np.cumsum(counts) - counts, counts)
    first = np.repeat(start, counts) + (np.arange(len(before)) - before) * CHUNK
    return Work(np.column_stack((np.repeat(tensor, counts), first)), int((stop - start).sum()))

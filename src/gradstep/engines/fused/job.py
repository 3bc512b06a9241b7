"""What a kernel is given to do: tables of chunks and tensors, and the threads that run it.

The job is an array of int64: the address of the counter, the number of chunks, and the addresses of the chunk table
(tensor, first element), of the tensor table (an address per column, then `PER_TENSOR`), of the coefficients, and of the
results per chunk.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradstep.engines.base import Int64s
from gradstep.engines.fused.threads import run

CHUNK = 16_384
"""Elements per chunk: a few microseconds of work; every column of a chunk fits in a second-level cache."""

FIELDS = ("counter", "chunk_count", "chunks", "tensors", "coefficients", "results")
"""The fields of a job, in their order."""

PER_TENSOR = ("length", "row", "key")
"""What the tensor table says of a tensor after its addresses: its elements, its row of coefficients, its noise."""

_PER_THREAD = 32_768  # elements worth waking another thread for


def launch(
    kernel: int,
    tensors: Int64s,
    lengths: Int64s,
    threads: int,
    coefficients: NDArray[np.floating[Any]],
    results: NDArray[np.float64],
) -> None:
    """Run the kernel at this address over all chunks of all tensors, and wait until it is done.

    Args:
        kernel: address of the compiled task.
        tensors: (n, columns + 3) the tensor table.
        lengths: (n,) elements of each tensor.
        threads: how many may work; fewer do when there is little to do.
        coefficients: (rows, names) in the kernel's arithmetic, C-contiguous.
        results: (chunks,) what the kernel finds per chunk, if it finds anything.
    """
    chunks, elements = _chunks(lengths.tobytes())
    if elements == 0:
        return
    counter = np.zeros(1, np.int64)
    addresses = [array.ctypes.data for array in (counter, chunks, tensors, coefficients, results)]
    job = np.array([addresses[0], len(chunks), *addresses[1:]], dtype=np.int64)
    run(kernel, job.ctypes.data, max(1, min(threads, len(chunks), elements // _PER_THREAD)))


def owners_of(lengths: Int64s) -> Int64s:
    """(chunks,) the tensor of every chunk."""
    return _chunks(lengths.tobytes())[0][:, 0]


@lru_cache(maxsize=16)  # the same at every step of an optimizer
def _chunks(lengths: bytes) -> tuple[Int64s, int]:
    """(chunks, 2) the tensor and the first element of every chunk; and the number of elements of all tensors."""
    sizes = np.frombuffer(lengths, dtype=np.int64)
    counts = -(-sizes // CHUNK)
    tensor = np.repeat(np.arange(len(sizes)), counts)
    first = np.repeat(np.cumsum(counts) - counts, counts)
    return np.column_stack((tensor, (np.arange(len(tensor)) - first) * CHUNK)), int(sizes.sum())

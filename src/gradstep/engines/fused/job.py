"""The job of a kernel: its fields, and the work of a launch divided into chunks, runs and pieces.

A chunk is the work that a thread takes at a time: a piece of a large tensor, or several small tensors. Consecutive
pieces of a chunk with one owner are a run, which has one row of results. The job is an array of int64: the numbers of
claimed and of finished chunks; the numbers of chunks, of runs and of owners; the access pattern; then the addresses of
the tables (`PER_CHUNK`, `PER_RUN`, `PER_PIECE`; the tensor table has an address per column, then `PER_TENSOR`), of the
coefficients, of the results per run, and of the totals per owner.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import final

import numpy as np
from numpy.typing import NDArray

from gradstep.engines.base import Int64s, Pieces

CHUNK = 16_384
"""Elements of a chunk when there is little work: a few microseconds."""

MAX_CHUNK = 65_536
"""Elements of a chunk when there is much work. Beginning a chunk costs time, mostly the memory's: four times as many
chunks cost 4% of a step."""

MIN_CHUNKS = 128
"""Chunks grow beyond ``CHUNK`` only if at least so many remain, for many threads to share."""

PIECE_COST = 256
"""The time to begin a piece, in elements that could be updated meanwhile."""

ROW_WIDTH = 8
"""Numbers in a row of results: one cache line, since other threads write the rows before and after it."""

COUNTS = ("claimed", "done", "chunk_count", "run_count", "owner_count", "streams", "prefetch")
FIELDS = (*COUNTS, "chunks", "runs", "pieces", "tensors", "coefficients", "results", "totals")
"""The fields of a job, in their order."""

PER_CHUNK = ("first", "stop")
"""Columns of the chunk table: a chunk's first run and the one after its last."""

PER_RUN = ("first", "stop", "owner")
"""Columns of the run table: a run's first piece and the one after its last, and the owner of its statistics."""

PER_PIECE = ("tensor", "start", "stop")
"""Columns of the piece table: a piece's tensor, its first element and the one after its last."""

PER_TENSOR = ("length", "row", "key")
"""Columns of the tensor table after the addresses: number of elements, row of coefficients, key of noise."""


@final
@dataclass(frozen=True)
class Work:
    """The work of a launch, divided into chunks.

    Attributes:
        chunks: (chunks, PER_CHUNK).
        runs: (runs, PER_RUN).
        pieces: (pieces, PER_PIECE).
        elements: the elements of all pieces.
        result_buffers: unused buffers, each (runs, ROW_WIDTH), for the results of a launch; there are as many as
            launches ran at the same time.
    """

    chunks: Int64s
    runs: Int64s
    pieces: Int64s
    elements: int
    result_buffers: list[NDArray[np.float64]] = field(default_factory=list)

    @cached_property
    def addresses(self) -> tuple[int, int, int]:
        """The addresses of the three tables."""
        return self.chunks.ctypes.data, self.runs.ctypes.data, self.pieces.ctypes.data


@lru_cache(maxsize=32)  # an optimizer's arguments are the same at every step
def divide_tensors(lengths_key: bytes, owners: bytes | None = None) -> Work:
    """Divide whole tensors into chunks; (n,) int64 lengths, and owners as in :func:`divide_pieces`, are bytes."""
    lengths = np.frombuffer(lengths_key, dtype=np.int64)
    whole = np.column_stack((np.arange(len(lengths)), np.zeros_like(lengths), lengths))
    return divide_pieces(whole, None if owners is None else np.frombuffer(owners, dtype=np.int64))


def divide_pieces(pieces: Pieces, owners: Int64s | None = None) -> Work:
    """Divide pieces into chunks.

    The size of the chunks depends only on the number of elements, so sums are the same for any number of threads.

    Args:
        pieces: (pieces, 3) the parts of tensors to update.
        owners: (n,) the row of statistics that each tensor counts for; None without statistics.
    """
    tensor, start, stop = pieces.T
    elements = int((stop - start).sum())
    size = CHUNK
    while size < MAX_CHUNK and elements >= 2 * size * MIN_CHUNKS:
        size *= 2
    counts = -(-(stop - start) // size)
    before = np.repeat(np.cumsum(counts) - counts, counts)
    tensor, start, stop = (np.repeat(column, counts) for column in pieces.T)
    start = start + (np.arange(len(before)) - before) * size
    stop = np.minimum(start + size, stop)
    cost = stop - start + PIECE_COST
    owner = np.zeros_like(tensor) if owners is None else owners[tensor]
    chunk = (np.cumsum(cost) - cost) // size
    opens = np.diff(chunk, prepend=-1) != 0
    runs = _bounds(opens | (np.diff(owner, prepend=-1) != 0))
    chunks = _bounds(opens[runs[:, 0]])
    return Work(chunks, np.column_stack((runs, owner[runs[:, 0]])), np.column_stack((tensor, start, stop)), elements)


def _bounds(opens: NDArray[np.bool_]) -> Int64s:
    """Return (ranges, 2) the first index of each range and the one after its last; ``opens`` (n,) marks the first."""
    first = np.flatnonzero(opens)
    return np.column_stack((first, np.append(first, len(opens))[1:]))

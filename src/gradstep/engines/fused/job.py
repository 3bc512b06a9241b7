"""The job of a kernel: its fields, and the work of a launch divided into chunks, runs and pieces.

A chunk is the work that a thread takes at a time: a piece of a large tensor, or several small tensors. Consecutive
pieces of a chunk with one owner are a run, which has one row of results. The job is an array of int64: the numbers of
claimed and of finished chunks; the numbers of chunks, of runs and of owners; the access pattern; then the addresses of
the tables (`PER_CHUNK`, `PER_RUN`, `PER_PIECE`; the tensor table has an address per column, then `PER_TENSOR`), of the
coefficients, of the results per run, and of the totals per owner.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import final

import numpy as np
from numpy.typing import NDArray

from gradstep.engines.statistics import Int64s

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
        addresses: of the three tables.
        result_buffers: unused buffers, each (runs, ROW_WIDTH), for the results of a launch; there are as many as
            launches ran at the same time.
    """

    chunks: Int64s
    runs: Int64s
    pieces: Int64s
    elements: int
    addresses: tuple[int, int, int]
    result_buffers: list[NDArray[np.float64]] = field(default_factory=list)

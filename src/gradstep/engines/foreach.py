"""The foreach engine: the rule on many parameters at once, in torch operations, for devices without a kernel."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from operator import itemgetter
from typing import Any, NamedTuple, final

import numpy as np
import torch
from torch import Tensor

from gradstep.engines.arrays import apply_rule, build_tally
from gradstep.engines.base import Batch, Engine, Traits
from gradstep.engines.eager import ARRAYS, flatten_each, name_coefficients, read_rows, sum_squares
from gradstep.engines.program import record_program
from gradstep.engines.rounding import CorrectRounding
from gradstep.engines.statistics import Int64s
from gradstep.rules import Rule
from gradstep.storage.elements import move_keys, split_key

ON_CPU, ON_DEVICE = 2**18, 2**22
"""The number of elements that are computed together. On a CPU the arrays of so many stay in the last cache; on a device
a launch costs more, and an operation on so many takes longer than its launch."""


class TensorPart(NamedTuple):
    """The elements ``start`` to ``stop`` of a parameter, by its position in the batch."""

    position: int
    start: int
    stop: int


def divide(
    lengths: Iterable[tuple[int, int]], limit: int, block: int, *, alone: bool = False
) -> Iterator[list[TensorPart]]:
    """Yield the pieces that are computed together: a part of a large parameter, or several small ones.

    Args:
        lengths: (position, number of elements) of every parameter.
        limit: the largest number of elements to compute together, a multiple of ``block``.
        block: the number of elements that share a scale; pieces begin at its multiples, and among several pieces they
            end there, too.
        alone: never take several pieces together.

    >>> [[tuple(piece) for piece in pieces] for pieces in divide([(0, 10), (1, 3), (2, 4)], limit=8, block=1)]
    [[(0, 0, 8)], [(0, 8, 10)], [(1, 0, 3), (2, 0, 4)]]
    """
    together: list[TensorPart] = []
    elements = 0
    for position, length in lengths:
        if alone or length > limit // 2 or length % block:
            yield from ([TensorPart(position, a, min(a + limit, length))] for a in range(0, length, limit))
            continue
        if elements + length > limit:
            yield together
            together, elements = [], 0
        together.append(TensorPart(position, 0, length))
        elements += length
    if together:
        yield together


@final
@dataclass(frozen=True)
class Chunk:
    """Pieces that are computed together: a part of a parameter, or several whole ones.

    Attributes:
        pieces: the pieces.
        lengths: the elements of each.
        choose: returns the pieces' entries of a list with one entry for each parameter of the batch.
    """

    pieces: Sequence[TensorPart]
    lengths: Sequence[int]
    choose: Callable[[Sequence[Any]], tuple[Any, ...]]

    @staticmethod
    def of(pieces: Sequence[TensorPart]) -> Chunk:
        """Return a chunk of these pieces."""
        lengths = [stop - start for _, start, stop in pieces]
        if len(pieces) == 1:
            only = itemgetter(pieces[0].position)
            return Chunk(pieces, lengths, lambda entries: (only(entries),))
        return Chunk(pieces, lengths, itemgetter(*[piece.position for piece in pieces]))


@lru_cache(maxsize=64)  # an optimizer's parameters are the same at every step
def _divide_into_chunks(positions: bytes, lengths: bytes, limit: int, block: int, *, alone: bool) -> Sequence[Chunk]:
    """Return the chunks of the parameters at ``positions``, with these ``lengths``; both (n,) int64, as bytes."""
    pairs = zip(np.frombuffer(positions, np.int64).tolist(), np.frombuffer(lengths, np.int64).tolist(), strict=True)
    return [Chunk.of(pieces) for pieces in divide(pairs, limit, block, alone=alone)]


@final
class Foreach(Engine):
    """Updates many parameters with each torch operation.

    Small parameters are copied into one array, computed together, and copied back; large ones are computed in parts, so
    that temporaries stay small. An operation then costs one launch instead of one for each parameter, and writes over
    memory that is no longer needed (:mod:`gradstep.engines.program`). The values are those of the eager engine, bit for
    bit, since the operations are the same.
    """

    name = "foreach"
    parts = False

    def refuse(self, rule: type[Rule], traits: Traits) -> str | None:
        if rule.sees != "elements":
            return f"{rule.__name__} looks at whole tensors"
        if not traits.plain:
            return "it is a tensor subclass, or has no memory of its own"
        if not traits.dense:
            return "its memory has gaps or overlaps"
        return None

    @torch.no_grad()
    def update(self, batch: Batch) -> None:
        coefficients, watched = name_coefficients(batch), batch.owners is not None
        block = max(codec.block for codec in batch.spec.codecs)
        columns = [flatten_each(column) for column in batch.columns]
        positions: list[int] = []
        statistics: list[Tensor] = []
        for row, device, members in _group_alike(batch, columns[1]):
            lengths = batch.lengths[members]
            if columns[1][members[0]].numel() != lengths[0]:  # pairs of real numbers
                lengths = lengths * 2
            limit = ON_CPU if device.type == "cpu" else ON_DEVICE
            chunks = _divide_into_chunks(members.tobytes(), lengths.tobytes(), limit, block, alone=watched)
            work = _Work(batch, columns, coefficients[row], device, min(limit, int(lengths.sum())))
            for chunk in chunks:
                collected = work.update(chunk, watched=watched)
                if collected is not None:
                    positions.append(chunk.pieces[0].position)
                    statistics.append(collected)
        if batch.owners is not None:
            batch.tally = build_tally(positions, read_rows(statistics), batch.owners)

    def sum_squares(self, batch: Batch) -> float:
        return sum_squares(batch.columns[0])


def _group_alike(batch: Batch, params: Sequence[Tensor]) -> Iterator[tuple[int, torch.device, Int64s]]:
    """Yield (row of coefficients, device, positions) of the parameters that have these in common, without empty ones.

    Args:
        batch: the batch.
        params: (n,) its parameters.
    """
    members = np.arange(len(params)) if batch.pieces is None else batch.pieces[:, 0]
    members = members[batch.lengths[members] > 0]
    rows, devices = batch.rows[members], {params[k].device for k in members.tolist()}
    for device in sorted(devices, key=str):
        here = members if len(devices) == 1 else members[[params[k].device == device for k in members.tolist()]]
        rows = batch.rows[here]
        for row in np.unique(rows).tolist():
            yield row, device, here[rows == row]


@final
class _Work:
    """The update of parameters that are on one device and have the same coefficients.

    Args:
        batch: the batch.
        columns: for every field, the (n,) array of each parameter.
        c: the coefficients by name.
        device: the device.
        limit: the most elements that are computed together.
    """

    def __init__(
        self, batch: Batch, columns: Sequence[Sequence[Tensor]], c: Any, device: torch.device, limit: int
    ) -> None:
        self.batch, self.spec, self.columns, self.c, self.device = batch, batch.spec, columns, c, device
        self.limit = limit
        numbers = vars(c)
        self.program = record_program(self.spec, frozenset(name for name, x in numbers.items() if x == 1.0))
        if self.program is not None:
            dtype = torch.float64 if self.spec.arithmetic is np.float64 else torch.float32
            self.registers = self.program.fill(numbers)
            self.scratch = [torch.empty(limit, dtype=dtype, device=device) for _ in range(self.program.scratch)]

    @cached_property
    def gathered(self) -> list[Tensor]:
        """An array for every field, into which small parameters are copied."""
        return [
            torch.empty(field.length(self.limit), dtype=column[0].dtype, device=self.device)
            for column, field in zip(self.columns, self.spec.fields, strict=True)
        ]

    def update(self, chunk: Chunk, *, watched: bool) -> Tensor | None:
        """Update the pieces of a chunk, which has a single one if it is watched.

        Returns:
            (len(STATISTICS),) the statistics, if they are collected.
        """
        spec, pieces = self.spec, chunk.pieces
        lengths = [chunk.lengths if f.per == 1 else [*map(f.length, chunk.lengths)] for f in spec.fields]
        chosen = [chunk.choose(column) for column in self.columns]
        if len(pieces) == 1:
            ((_, start, stop),) = pieces
            columns = [a[start // f.per : f.length(stop)] for (a,), f in zip(chosen, spec.fields, strict=True)]
        else:  # whole parameters
            columns = [
                torch.cat(arrays, out=array[: sum(length)])
                for arrays, array, length in zip(chosen, self.gathered, lengths, strict=True)
            ]
        old: Sequence[Tensor] = ()
        if self.program is None or watched:
            with CorrectRounding():
                old = ARRAYS.decode(spec, self.c, columns)
                new = apply_rule(spec, self.c, old)
        else:
            elements = columns[0].numel()
            scratch = [array[:elements] for array in self.scratch] if elements < self.limit else self.scratch
            with CorrectRounding():
                values = ARRAYS.decode_columns(spec, columns)
            new = self.program.run(self.registers, values, scratch)  # its roots and quotients are correctly rounded
        key, numbers = _number_elements(self.batch, pieces, self.device) if spec.noise else ((0, 0), None)
        with CorrectRounding():
            statistics = ARRAYS.store(spec, key, columns, old, new, numbers, watched=watched)
        if len(pieces) > 1:
            for arrays, column, length in zip(chosen[1:], columns[1:], lengths[1:], strict=True):
                torch.split_with_sizes_copy(column, length, out=arrays)
        return statistics


def _number_elements(
    batch: Batch, pieces: Sequence[TensorPart], device: torch.device
) -> tuple[tuple[Any, Any], Tensor]:
    """Return what noise depends on: the low and the high halves of the keys, and (n,) int32 each element's number.

    The key of a single piece is two numbers, that of several are two arrays (n,) int32.
    """
    positions, starts, stops = np.array(pieces, dtype=np.int64).T
    first = starts if batch.starts is None else starts + batch.starts[positions]
    keys = [split_key(key) for key in move_keys(batch.keys[positions], first).tolist()]
    total = int((stops - starts).sum())
    numbers = torch.arange(total, dtype=torch.int32, device=device)
    if len(pieces) == 1:
        return keys[0], numbers
    lengths = torch.from_numpy(stops - starts)
    rows = torch.column_stack((torch.tensor(keys), lengths.cumsum(0) - lengths)).to(device, torch.int32)
    low, high, begins = rows.repeat_interleave(lengths.to(device), 0, output_size=total).unbind(1)
    return (low, high), numbers - begins

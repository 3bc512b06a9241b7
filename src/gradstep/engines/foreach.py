"""The foreach engine: the rule on many parameters at once, in torch operations, for devices without a kernel."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, final

import numpy as np
import torch
from torch import Tensor

from gradstep.engines.arrays import apply_rule, build_tally
from gradstep.engines.base import Batch, Engine, Traits
from gradstep.engines.eager import ARRAYS, flatten, name_coefficients, read_rows, sum_squares
from gradstep.rules import Rule
from gradstep.storage.elements import move_keys, split_key

ON_CPU, ON_DEVICE = 2**16, 2**22
"""The number of elements that are computed together. On a CPU the temporaries of so many stay in a core's cache; on a
device a launch costs more, and an operation on so many takes longer than its launch."""


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
class Foreach(Engine):
    """Updates many parameters with each torch operation.

    Small parameters are copied into one array, computed together, and copied back; large ones are computed in parts, so
    that temporaries stay small. An operation then costs one launch instead of one for each parameter. The values are
    those of the eager engine, bit for bit, since the operations are the same.
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
        flat: dict[int, list[Tensor]] = {}
        alike: dict[tuple[int, torch.device], list[tuple[int, int]]] = {}
        for k, columns in batch.iterate_parameters(batch.columns):
            if columns[0].numel():
                flat[k] = [flatten(tensor) for tensor in columns]
                members = alike.setdefault((int(batch.rows[k]), columns[1].device), [])
                members.append((k, flat[k][1].numel()))
        positions: list[int] = []
        rows: list[Tensor] = []
        for (row, device), members in alike.items():
            limit = ON_CPU if device.type == "cpu" else ON_DEVICE
            for pieces in divide(members, limit, block, alone=watched):
                statistics = _update_pieces(batch, pieces, flat, coefficients[row], watched=watched)
                if statistics is not None:
                    positions.append(pieces[0].position)
                    rows.append(statistics)
        if batch.owners is not None:
            batch.tally = build_tally(positions, read_rows(rows), batch.owners)

    def sum_squares(self, batch: Batch) -> float:
        return sum_squares(batch.columns[0])


def _update_pieces(
    batch: Batch, pieces: Sequence[TensorPart], flat: Mapping[int, Sequence[Tensor]], c: Any, *, watched: bool
) -> Tensor | None:
    """Update the pieces with the coefficients ``c``.

    Args:
        batch, c: the batch, and the coefficients of these pieces by name.
        pieces: what to update, all on one device; a single piece if it is watched.
        flat: the (n,) array of every field of each parameter, by the parameter's position.
        watched: whether to collect statistics.

    Returns:
        (len(STATISTICS),) the statistics, if they are collected.
    """
    spec = batch.spec
    places = [
        [flat[k][column][start // field.per : -(-stop // field.per)] for k, start, stop in pieces]
        for column, field in enumerate(spec.fields)
    ]
    columns = [place[0] if len(place) == 1 else torch.cat(place) for place in places]
    old = ARRAYS.decode(spec, c, columns)
    new = apply_rule(spec, c, old)
    key, numbers = _number_elements(batch, pieces, columns[0].device) if spec.noise else ((0, 0), None)
    statistics = ARRAYS.store(spec, key, columns, old, new, numbers, watched=watched)
    if len(pieces) > 1:
        for place, column in zip(places[1:], columns[1:], strict=True):
            torch._foreach_copy_(place, column.split([part.numel() for part in place]))
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

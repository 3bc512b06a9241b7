"""The host's memory that holds the state of parameters on a device, and the windows that it goes there in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from numpy.typing import NDArray
from torch import Tensor

from gradstep.optimizers.choice import is_dense
from gradstep.optimizers.placement import New, shaped
from gradstep.optimizers.streams import BUFFERS, Device
from gradstep.storage.pages import Column, Item, Layout, Piece, check_budget, parted
from gradstep.storage.pages.layout import round_up

WINDOW = 64 << 20
"""Bytes of a window, at most: copies of some megabytes are as fast as any, and before the first nothing is computed."""

_LINE = 64  # what arrays begin at a multiple of
_KEPT = 64  # sets of parameters whose windows are remembered


@final
@dataclass(frozen=True)
class Cargo:
    """What of an arena is on the device together.

    Attributes:
        pieces: the elements of parameters, by their numbers in the walk.
        places: for each piece, where the bytes of each of its fields are in a buffer.
        spans: the bytes to copy: where in the arena they begin and stop, and where in a buffer.
    """

    pieces: tuple[Piece, ...]
    places: tuple[tuple[slice, ...], ...]
    spans: tuple[tuple[int, int, int], ...]

    @classmethod
    def of(cls, layout: Layout, items: Sequence[Item], pieces: Sequence[Piece]) -> Cargo:
        """The cargo of these pieces; bytes of neighbours are copied together."""
        spans: list[tuple[int, int, int]] = []
        places: list[tuple[slice, ...]] = []
        filled = 0
        for piece in pieces:
            fields = []
            for column in items[piece.item].columns:
                size = layout.by_name[column.name].dtype.itemsize
                part = column.part(piece.start, piece.stop)
                base = layout.ranges[column.name][0]
                begin, end = base + part.start * size, base + part.stop * size
                # Between arrays there are fewer bytes than a line; between parts of them, bytes of other pieces.
                if spans and 0 <= begin - spans[-1][1] < _LINE:
                    spans[-1] = (spans[-1][0], end, spans[-1][2])
                else:
                    spans.append((begin, end, round_up(filled, _LINE)))
                place = spans[-1][2] + begin - spans[-1][0]
                filled = place + end - begin
                fields.append(slice(place, filled))
            places.append(tuple(fields))
        return cls(tuple(pieces), tuple(places), tuple(spans))

    @property
    def nbytes(self) -> int:
        """Bytes of a buffer that holds it."""
        begin, end, place = self.spans[-1]
        return place + end - begin

    def copy(self, host: Tensor, buffer: Tensor, *, back: bool) -> None:
        """Copy it from the host's memory to the buffer, or back, without waiting."""
        for begin, end, place in self.spans:
            there, here = host[begin:end], buffer[place : place + end - begin]
            (there if back else here).copy_(here if back else there, non_blocking=True)


@final
class Arena:
    """A stretch of the host's memory and the parameters whose state it holds, laid out as a page file is."""

    def __init__(self, parameters: Sequence[New], device: Device) -> None:
        self._params = [p for _, p, _ in parameters]  # kept, so that their ids stay theirs
        self._facts = {id(p): (p.shape, p.dtype, p.stride(), p.device) for p in self._params}
        self._columns = {
            id(p): {key: (f"{k}: {key}", field) for key, field in stored.fields.items()}
            for k, (_, p, stored) in enumerate(parameters)
        }
        self._layout = Layout.of(
            (array, field.element.stored, field.length(p.numel()))
            for p in self._params
            for array, field in self._columns[id(p)].values()
        )
        self.memory = torch.zeros(self._layout.file_bytes, dtype=torch.uint8)
        device.pin(self.memory)
        self.blank = True
        self.tensors = {
            id(p): {key: shaped(self._array(array), field, p) for key, (array, field) in self._columns[id(p)].items()}
            for p in self._params
        }
        self._cargoes: dict[Any, list[Cargo]] = {}

    def _array(self, name: str) -> NDArray[Any]:
        begin, end = self._layout.ranges[name]
        return self.memory.numpy()[begin:end].view(self._layout.by_name[name].dtype)

    def serves(self, p: Tensor) -> bool:
        """Whether the state of this parameter is here, and fits it still."""
        return self._facts.get(id(p)) == (p.shape, p.dtype, p.stride(), p.device)

    def cargoes(self, params: Sequence[Tensor], budget: int) -> list[Cargo]:
        """The state of these parameters, in windows of which three are within the budget."""
        key = (budget, *map(id, params))
        if key not in self._cargoes:
            items = [
                Item(
                    p.numel(),
                    tuple(Column(array, field.per) for array, field in self._columns[id(p)].values()),
                    whole=not is_dense(p),
                )
                for p in params
            ]
            parts = parted(self._layout, items, min(WINDOW, budget // BUFFERS))
            cargoes = [Cargo.of(self._layout, items, part) for part in parts]
            check_budget(budget, BUFFERS * max((cargo.nbytes for cargo in cargoes), default=0))
            if len(self._cargoes) > _KEPT:
                self._cargoes.clear()  # parameters come and go
            self._cargoes[key] = cargoes
        return self._cargoes[key]

    def fields(self, p: Tensor, places: Sequence[slice], buffer: Tensor) -> list[Tensor]:
        """The state of a piece of a parameter that is in a buffer."""
        found = []
        for place, host in zip(places, self.tensors[id(p)].values(), strict=True):
            part = buffer[place].view(host.dtype)
            found.append(part if is_dense(p) else part.as_strided(host.shape, host.stride()))
        return found

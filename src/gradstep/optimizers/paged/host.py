"""State of parameters on a GPU in the host's memory: each step copies it to the device and back, window by window.

The memory, its windows and the order of copies are in :mod:`gradstep.optimizers.paged.host_memory`; here they are used
for the parameters of a step.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gradstep.engines.base import LENGTH, Batch, StepBatch
from gradstep.engines.statistics import Int64s, Tally, add_rows, count_rows, empty_table
from gradstep.optimizers.memory import array_of, is_dense
from gradstep.optimizers.paged.host_memory import BUFFERS, DEVICES, Arena, HostWindow, WindowJob, relay
from gradstep.optimizers.paged.placement import ParameterState, Placement
from gradstep.optimizers.state.arrays import complete_state
from gradstep.optimizers.state.storage import Storage
from gradstep.storage.pages import Preflight
from gradstep.storage.pages.memory import available_memory
from gradstep.storage.policy import Pages, keys_of
from gradstep.storage.sizes import show_bytes


@final
class HostPlacement(Placement):
    """State in the host's pinned memory, for parameters on one device.

    Args:
        pages: the user's settings; only the budget counts here.
        device: the device of all parameters.
    """

    on_host = True

    def __init__(self, pages: Pages, device: torch.device) -> None:
        self.pages, self.storage = pages, Storage()
        self._torch_device = device
        self._device = DEVICES[device.type](device)
        self._arenas: list[Arena] = []

    def check_room(self, nbytes: int) -> None:
        available = available_memory()
        if available is not None and nbytes > available:
            raise MemoryError(
                f"state paged to the host's memory needs {show_bytes(nbytes)}, {show_bytes(available)} are available"
            )

    def saved_noise(self, storage: Storage) -> Storage:
        return storage

    def preflight(self, nbytes: int) -> Preflight:
        raise ValueError(f"the state ({show_bytes(nbytes)}) is paged to the host's memory: no disk has a part in it")

    def complete_state(self, parameters: Sequence[ParameterState], scalars: Sequence[str]) -> list[dict[str, Any]]:
        new = [(name, p, stored) for name, p, stored, _ in parameters if self._arena_of(p) is None]
        for name, p, _ in new:
            if p.device != self._torch_device:
                raise ValueError(
                    f"this optimizer's state is paged for parameters on {self._torch_device}, and {name} is on "
                    f"{p.device}: make an optimizer for each device"
                )
        if new:
            self._arenas.append(Arena(new, self._device))
        entries, places = [], []
        for name, p, stored, old in parameters:
            arena = self._arena_of(p)
            assert arena is not None
            arrays, present = arena.tensors[id(p)], dict(old)
            places.append((arena, arrays))
            if all(present.get(key) is place for key, place in arrays.items()):
                entries.append(present)
                continue
            if "step" not in present and arena.blank:  # the arena is full of zeros
                for slot, codec in zip(stored.slots, stored.codecs, strict=True):
                    if slot.name not in present and slot.fill == 0:
                        present.update({key: arrays[key] for key in keys_of(slot, codec)}, step=0.0)
            entries.append(complete_state(p.detach().to("cpu"), stored, present, name))
        for entry, (arena, arrays) in zip(entries, places, strict=True):
            for key, place in arrays.items():
                if entry[key] is not place:
                    entry[key] = place.copy_(entry[key])
                    arena.blank = False
        return entries

    def open_for_update(self) -> AbstractContextManager[None]:
        return nullcontext()

    def scalar_rows(self, params: Sequence[Tensor]) -> list[NDArray[np.int64]]:
        return []

    def save_scalars(self, scalars: NDArray[np.float32], rows: Sequence[NDArray[np.int64]]) -> None:
        pass

    def update(self, batch: StepBatch) -> None:
        params = batch.columns[1]
        work: list[tuple[Arena, list[int], HostWindow]] = []
        for arena in self._arenas:
            members = [k for k, p in enumerate(params) if arena.serves(p)]
            if members:
                windows = arena.windows([params[k] for k in members], self.pages.budget)
                work += [(arena, members, window) for window in windows]
                arena.blank = False
        largest = max((window.nbytes for _, _, window in work), default=0)
        buffers = [self._device.buffer(largest) for _ in range(min(BUFFERS, len(work)))]
        table = empty_table(0 if batch.owners is None else count_rows(batch.owners))
        relay(
            self._device, [_HostJob(batch, arena, members, window, buffers, table) for arena, members, window in work]
        )
        batch.tally = Tally.of(table)

    def _arena_of(self, p: Tensor) -> Arena | None:
        return next((arena for arena in self._arenas if arena.serves(p)), None)


@final
class _HostJob(WindowJob):
    """The update of the parameters in one window.

    Args:
        batch: the parameters of the step.
        arena: the memory that has the window's state.
        members: for each parameter of the arena's windows, its position in the batch.
        window: the window.
        buffers: the buffers on the device.
        table: (rows, columns) the statistics of the step, to which the update adds.
    """

    def __init__(
        self,
        batch: StepBatch,
        arena: Arena,
        members: Sequence[int],
        window: HostWindow,
        buffers: Sequence[Tensor],
        table: NDArray[np.float64],
    ) -> None:
        self._batch, self._arena, self._window, self._buffers, self._table = batch, arena, window, buffers, table
        positions = [(members[piece.item], piece.start, piece.stop) for piece in window.pieces]
        self._pieces = np.array(positions, dtype=np.int64)

    def fetch(self, buffer: int) -> None:
        self._window.copy(self._arena.memory, self._buffers[buffer], back=False)

    def update(self, buffer: int) -> None:
        gradients, params = self._batch.columns[:2]
        entries = []
        for (k, *piece), places in zip(self._pieces.tolist(), self._window.places, strict=True):
            own = [gradients[k], params[k].detach()]
            if is_dense(params[k]):
                own = [_slice_in_memory_order(t, *piece) for t in own]
            entries.append(own + self._arena.fields(params[k], places, self._buffers[buffer]))
        part = _WindowBatch(self._batch, self._pieces, list(zip(*entries, strict=True)))
        self._batch.engine.update(part)
        if self._batch.owners is not None:
            add_rows(self._table, self._batch.owners[self._pieces[:, 0]], part.tally.table)

    def store(self, buffer: int) -> None:
        self._window.copy(self._arena.memory, self._buffers[buffer], back=True)


@final
class _WindowBatch(Batch):
    """The pieces of one window on the device: views of the parameters' own memory, and their state in a buffer."""

    def __init__(self, batch: StepBatch, pieces: Int64s, columns: Sequence[Sequence[Tensor]]) -> None:
        numbers, starts, stops = pieces.T
        self.spec = batch.spec
        self.coefficients = batch.coefficients
        self.threads = batch.threads
        self.owners = None if batch.owners is None else np.arange(len(pieces))
        self.starts = starts
        self.table = batch.table[numbers].copy()
        self.table[:, LENGTH] = stops - starts
        self._columns = columns

    @property
    def columns(self) -> Sequence[Sequence[Tensor]]:
        return self._columns

    def arrays(self) -> Sequence[Sequence[NDArray[Any]]]:
        return [[array_of(t) for t in column] for column in self.columns]


def _slice_in_memory_order(tensor: Tensor, start: int, stop: int) -> Tensor:
    """Return (stop − start,) elements of a dense tensor, in memory order."""
    return tensor.as_strided((tensor.numel(),), (1,))[start:stop]

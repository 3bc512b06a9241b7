"""The host's memory that holds the state of parameters on a device, and the streams that copy it there and back."""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from numpy.typing import NDArray
from torch import Tensor

from gradstep.optimizers.paged.placement import NewParameter, shaped
from gradstep.optimizers.state.storage import is_dense
from gradstep.storage.pages import Column, Item, Layout, Piece, check_budget, parted
from gradstep.storage.pages.layout import round_up

BUFFERS = 3
"""Windows on the device at a time: one arrives, one is computed, one leaves."""

_PORTABLE = 1  # cudaHostRegisterPortable: for every GPU of the process


class Stream(ABC):
    """Work that a device does in order. What is in different streams runs at the same time, in any order."""

    @abstractmethod
    def do(self, work: Callable[[], None]) -> None:
        """Add work; need not wait for it."""

    @abstractmethod
    def record(self) -> Any:
        """An event: that all that has been added so far is done."""

    @abstractmethod
    def wait(self, event: Any) -> None:
        """What is added from now on begins after the event, of whichever stream."""


class Device(ABC):
    """Where a step is computed.

    Attributes:
        incoming, outgoing: what copies to the device, and from it.
    """

    incoming: Stream
    outgoing: Stream

    @property
    @abstractmethod
    def computing(self) -> Stream:
        """What computes: the caller's own stream, which may be another at each step."""

    @abstractmethod
    def pin(self, memory: Tensor) -> None:
        """Make the host's memory such that copies need not wait, until the tensor is gone."""

    @abstractmethod
    def buffer(self, nbytes: int) -> Tensor:
        """Memory of the device, of whatever contents."""

    @abstractmethod
    def finish(self) -> None:
        """Wait until everything is done."""


@final
@dataclass(frozen=True)
class WindowJob:
    """What is done with one window; each is called with the number of the buffer that the window is in.

    Attributes:
        fetch: copies its state to the buffer.
        update: computes.
        store: copies its state back.
    """

    fetch: Callable[[int], None]
    update: Callable[[int], None]
    store: Callable[[int], None]


def relay(device: Device, jobs: Sequence[WindowJob]) -> None:
    """Do the jobs one after the other, while the state of the next one arrives and that of the one before leaves.

    Window k is in buffer k mod 3. It is computed when it has arrived, leaves when it is computed, and its buffer is
    used again when it has left. All is done on return, also if that is by an exception.
    """
    left: list[Any] = []
    arrived: list[Any] = []

    def fetch(k: int) -> None:
        if k < len(jobs):
            if k >= BUFFERS:
                device.incoming.wait(left[k - BUFFERS])
            device.incoming.do(lambda: jobs[k].fetch(k % BUFFERS))
            arrived.append(device.incoming.record())

    def compute(k: int) -> None:
        device.computing.wait(arrived[k])
        device.computing.do(lambda: jobs[k].update(k % BUFFERS))

    def store(k: int) -> None:
        device.outgoing.wait(device.computing.record())
        device.outgoing.do(lambda: jobs[k].store(k % BUFFERS))
        left.append(device.outgoing.record())

    try:
        # The buffers may be memory that earlier computation has given up and not yet come to.
        device.incoming.wait(device.computing.record())
        fetch(0)
        for k in range(len(jobs)):
            fetch(k + 1)
            compute(k)
            store(k)
    finally:
        device.finish()


@final
class ImmediateStream(Stream):
    """Does everything at once, which is one of the orders that are allowed."""

    def do(self, work: Callable[[], None]) -> None:
        work()

    def record(self) -> Any:
        return None

    def wait(self, event: Any) -> None:
        del event


@final
class Host(Device):
    """The CPU as its own device, one thing after the other: what the others are to agree with, bit for bit."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.incoming = self.outgoing = ImmediateStream()

    @property
    def computing(self) -> Stream:
        return self.incoming

    def pin(self, memory: Tensor) -> None:
        del memory

    def buffer(self, nbytes: int) -> Tensor:
        return torch.empty(nbytes, dtype=torch.uint8, device=self._device)

    def finish(self) -> None:
        pass


@final
class CudaStream(Stream):
    """A stream of a GPU."""

    def __init__(self, stream: torch.cuda.Stream) -> None:
        self.stream = stream

    def do(self, work: Callable[[], None]) -> None:
        with torch.cuda.stream(self.stream):
            work()

    def record(self) -> Any:
        return self.stream.record_event()

    def wait(self, event: Any) -> None:
        self.stream.wait_event(event)


@final
class Cuda(Device):
    """A GPU. It has not been run: there was none where this was written. What needs no GPU to be wrong is tested."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._in, self._out = torch.cuda.Stream(device), torch.cuda.Stream(device)
        self.incoming, self.outgoing = CudaStream(self._in), CudaStream(self._out)

    @property
    def computing(self) -> CudaStream:
        return CudaStream(torch.cuda.current_stream(self._device))

    def pin(self, memory: Tensor) -> None:
        # torch's own pinned memory comes in powers of two: up to twice what was asked for.
        with torch.cuda.device(self._device):
            runtime: Any = torch.cuda.cudart()
            torch.cuda.check_error(runtime.cudaHostRegister(memory.data_ptr(), memory.nbytes, _PORTABLE))
        weakref.finalize(memory, runtime.cudaHostUnregister, memory.data_ptr()).atexit = False

    def buffer(self, nbytes: int) -> Tensor:
        return torch.empty(nbytes, dtype=torch.uint8, device=self._device)

    def finish(self) -> None:
        # The last copy to leave comes after everything; unless an error came in between.
        for stream in (self._in, self._out, torch.cuda.current_stream(self._device)):
            stream.synchronize()


DEVICES: dict[str, Callable[[torch.device], Device]] = {"cuda": Cuda}
"""The devices whose state is paged to the host's memory, by their type."""


WINDOW = 64 << 20
"""Bytes of a window, at most: copies of some megabytes are as fast as any, and before the first nothing is computed."""

_LINE = 64  # what arrays begin at a multiple of
_MAX_CACHED = 64  # sets of parameters whose windows are remembered


@final
@dataclass(frozen=True)
class HostWindow:
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
    def of(cls, layout: Layout, items: Sequence[Item], pieces: Sequence[Piece]) -> HostWindow:
        """The window of these pieces; bytes of neighbours are copied together."""
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

    def __init__(self, parameters: Sequence[NewParameter], device: Device) -> None:
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
        self._windows: dict[Any, list[HostWindow]] = {}

    def _array(self, name: str) -> NDArray[Any]:
        begin, end = self._layout.ranges[name]
        return self.memory.numpy()[begin:end].view(self._layout.by_name[name].dtype)

    def serves(self, p: Tensor) -> bool:
        """Whether the state of this parameter is here, and fits it still."""
        return self._facts.get(id(p)) == (p.shape, p.dtype, p.stride(), p.device)

    def windows(self, params: Sequence[Tensor], budget: int) -> list[HostWindow]:
        """The state of these parameters, in windows of which three are within the budget."""
        key = (budget, *map(id, params))
        if key not in self._windows:
            items = [
                Item(
                    p.numel(),
                    tuple(Column(array, field.per) for array, field in self._columns[id(p)].values()),
                    whole=not is_dense(p),
                )
                for p in params
            ]
            parts = parted(self._layout, items, min(WINDOW, budget // BUFFERS))
            windows = [HostWindow.of(self._layout, items, part) for part in parts]
            check_budget(budget, BUFFERS * max((window.nbytes for window in windows), default=0))
            if len(self._windows) > _MAX_CACHED:
                self._windows.clear()  # parameters come and go
            self._windows[key] = windows
        return self._windows[key]

    def fields(self, p: Tensor, places: Sequence[slice], buffer: Tensor) -> list[Tensor]:
        """The state of a piece of a parameter that is in a buffer."""
        found = []
        for place, host in zip(places, self.tensors[id(p)].values(), strict=True):
            part = buffer[place].view(host.dtype)
            found.append(part if is_dense(p) else part.as_strided(host.shape, host.stride()))
        return found

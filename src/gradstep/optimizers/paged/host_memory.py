"""The host's memory for state of parameters on a device, and the streams that copy it to the device and back."""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from numpy.typing import NDArray
from torch import Tensor

from gradstep.optimizers.memory import is_dense
from gradstep.optimizers.paged.placement import NewParameter, shaped
from gradstep.storage.pages import Item, Layout, PageColumn, Piece, check_budget, split_work
from gradstep.storage.pages.layout import round_up

BUFFERS = 3
"""Buffers on the device: one window arrives, one is computed, one leaves."""

_PORTABLE = 1  # cudaHostRegisterPortable: for every GPU of the process


class Stream(ABC):
    """A queue of work that a device does in order; several streams run at the same time."""

    @abstractmethod
    def do(self, work: Callable[[], None]) -> None:
        """Add work to the stream; it may be done later."""

    @abstractmethod
    def record(self) -> Any:
        """Return the event that all work added so far is done."""

    @abstractmethod
    def wait(self, event: Any) -> None:
        """Delay all work that is added from now on until the event, of any stream."""


class Device(ABC):
    """The device that a step is computed on.

    Attributes:
        incoming, outgoing: the streams that copy to the device, and from it.
    """

    incoming: Stream
    outgoing: Stream

    @property
    @abstractmethod
    def computing(self) -> Stream:
        """The stream that computes: the caller's own, which may be another at each step."""

    @abstractmethod
    def pin(self, memory: Tensor) -> None:
        """Pin the host's memory for as long as the tensor exists, so that copies do not block."""

    @abstractmethod
    def buffer(self, nbytes: int) -> Tensor:
        """Return (nbytes,) uninitialized uint8 on the device."""

    @abstractmethod
    def finish(self) -> None:
        """Wait until all work is done."""


class WindowJob(ABC):
    """The work on one window; each method takes the number of the window's buffer."""

    @abstractmethod
    def fetch(self, buffer: int) -> None:
        """Copy the window's state to the buffer."""

    @abstractmethod
    def update(self, buffer: int) -> None:
        """Update the parameters and the state in the buffer."""

    @abstractmethod
    def store(self, buffer: int) -> None:
        """Copy the state back."""


def relay(device: Device, jobs: Sequence[WindowJob]) -> None:
    """Do the jobs one after the other, while the next window is copied to the device and the last one back.

    Window k is in buffer k mod 3. It is updated after it has arrived, leaves after it is updated, and its buffer is
    used again after it has left. All work is done on return, also after an exception.
    """
    departures: list[Any] = []
    arrivals: list[Any] = []

    def fetch(k: int) -> None:
        if k < len(jobs):
            if k >= BUFFERS:
                device.incoming.wait(departures[k - BUFFERS])
            device.incoming.do(lambda: jobs[k].fetch(k % BUFFERS))
            arrivals.append(device.incoming.record())

    def compute(k: int) -> None:
        device.computing.wait(arrivals[k])
        device.computing.do(lambda: jobs[k].update(k % BUFFERS))

    def store(k: int) -> None:
        device.outgoing.wait(device.computing.record())
        device.outgoing.do(lambda: jobs[k].store(k % BUFFERS))
        departures.append(device.outgoing.record())

    try:
        # The buffers' memory may have been freed by earlier computation that has not run yet: wait for it.
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
    """A stream that does all work at once, which is one of the allowed orders."""

    def do(self, work: Callable[[], None]) -> None:
        work()

    def record(self) -> Any:
        return None

    def wait(self, event: Any) -> None:
        del event


@final
class Host(Device):
    """The CPU as its own device, without overlap: the reference that other devices must match bit for bit."""

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
    """A GPU. This class was written without a GPU and has not been run; tests cover what needs no GPU."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._in, self._out = torch.cuda.Stream(device), torch.cuda.Stream(device)
        self.incoming, self.outgoing = CudaStream(self._in), CudaStream(self._out)

    @property
    def computing(self) -> CudaStream:
        return CudaStream(torch.cuda.current_stream(self._device))

    def pin(self, memory: Tensor) -> None:
        # torch would round pinned memory up to a power of two, up to twice the bytes.
        with torch.cuda.device(self._device):
            runtime: Any = torch.cuda.cudart()
            torch.cuda.check_error(runtime.cudaHostRegister(memory.data_ptr(), memory.nbytes, _PORTABLE))
        weakref.finalize(memory, runtime.cudaHostUnregister, memory.data_ptr()).atexit = False

    def buffer(self, nbytes: int) -> Tensor:
        return torch.empty(nbytes, dtype=torch.uint8, device=self._device)

    def finish(self) -> None:
        # All three: after an error the last outgoing copy may not wait for the other work.
        for stream in (self._in, self._out, torch.cuda.current_stream(self._device)):
            stream.synchronize()


DEVICES: dict[str, Callable[[torch.device], Device]] = {"cuda": Cuda}
"""The devices whose state is paged to the host's memory, by their type."""


WINDOW = 64 << 20
"""The most bytes of a window: copies of some megabytes have full speed, and the first copy delays all computing."""

_LINE = 64  # arrays begin at multiples of so many bytes
_MAX_CACHED = 64  # sets of parameters with cached windows


@final
@dataclass(frozen=True)
class HostWindow:
    """The part of an arena that is on the device at the same time.

    Attributes:
        pieces: the pieces of parameters; ``item`` is the parameter's position in :meth:`Arena.windows`' ``params``.
        places: for each piece, the bytes of each of its fields in a buffer.
        spans: the bytes to copy: (begin in the arena, end in the arena, begin in the buffer).
    """

    pieces: tuple[Piece, ...]
    places: tuple[tuple[slice, ...], ...]
    spans: tuple[tuple[int, int, int], ...]

    @classmethod
    def of(cls, layout: Layout, items: Sequence[Item], pieces: Sequence[Piece]) -> HostWindow:
        """Return the window of these pieces; bytes of neighbours are copied together."""
        spans: list[tuple[int, int, int]] = []
        places: list[tuple[slice, ...]] = []
        size_so_far = 0
        for piece in pieces:
            fields = []
            for column in items[piece.item].columns:
                size = layout.by_name[column.name].dtype.itemsize
                part = column.part(piece.start, piece.stop)
                base = layout.ranges[column.name][0]
                begin, end = base + part.start * size, base + part.stop * size
                # A gap shorter than a line lies between whole arrays; a longer one holds bytes of other pieces.
                if spans and 0 <= begin - spans[-1][1] < _LINE:
                    spans[-1] = (spans[-1][0], end, spans[-1][2])
                else:
                    spans.append((begin, end, round_up(size_so_far, _LINE)))
                place = spans[-1][2] + begin - spans[-1][0]
                size_so_far = place + end - begin
                fields.append(slice(place, size_so_far))
            places.append(tuple(fields))
        return cls(tuple(pieces), tuple(places), tuple(spans))

    @property
    def nbytes(self) -> int:
        """Bytes of a buffer that can hold the window."""
        begin, end, place = self.spans[-1]
        return place + end - begin

    def copy(self, host: Tensor, buffer: Tensor, *, back: bool) -> None:
        """Copy the window from the host's memory to the buffer, or back, without waiting."""
        for begin, end, place in self.spans:
            there, here = host[begin:end], buffer[place : place + end - begin]
            (there if back else here).copy_(here if back else there, non_blocking=True)


@final
class Arena:
    """The host's memory for the state of some parameters, with the layout of a page file.

    Args:
        parameters: the parameters with their codecs, all on one device.
        device: the device that computes; it pins the memory.

    Attributes:
        memory: all bytes, uint8, (file_bytes of the layout,).
        blank: whether nothing has been written yet, so that all state is 0.
        tensors: the fields of each parameter's state by its id and their keys; views of ``memory``.
    """

    def __init__(self, parameters: Sequence[NewParameter], device: Device) -> None:
        self._params = [p for _, p, _ in parameters]  # held, so that their ids stay unique
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
        """Return whether this arena has the parameter's state, for its present shape, type, strides and device."""
        return self._facts.get(id(p)) == (p.shape, p.dtype, p.stride(), p.device)

    def windows(self, params: Sequence[Tensor], budget: int) -> list[HostWindow]:
        """Return windows with the state of these parameters; three windows together are within the budget in bytes."""
        key = (budget, *map(id, params))
        if key not in self._windows:
            items = [
                Item(
                    p.numel(),
                    tuple(PageColumn(array, field.per) for array, field in self._columns[id(p)].values()),
                    whole=not is_dense(p),
                )
                for p in params
            ]
            parts = split_work(self._layout, items, min(WINDOW, budget // BUFFERS))
            windows = [HostWindow.of(self._layout, items, part) for part in parts]
            check_budget(budget, BUFFERS * max((window.nbytes for window in windows), default=0))
            if len(self._windows) > _MAX_CACHED:
                self._windows.clear()  # parameters come and go
            self._windows[key] = windows
        return self._windows[key]

    def fields(self, p: Tensor, places: Sequence[slice], buffer: Tensor) -> list[Tensor]:
        """Return the fields of a piece of a parameter as tensors in a buffer: flat if the parameter is dense."""
        tensors = []
        for place, host in zip(places, self.tensors[id(p)].values(), strict=True):
            part = buffer[place].view(host.dtype)
            tensors.append(part if is_dense(p) else part.as_strided(host.shape, host.stride()))
        return tensors

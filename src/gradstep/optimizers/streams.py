"""State on its way to a device and back while the device computes: the order of events, and the device's calls."""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

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
class Job:
    """What is done with one window; each is called with the number of the buffer that the window is in.

    Attributes:
        fetch: copies its state to the buffer.
        update: computes.
        store: copies its state back.
    """

    fetch: Callable[[int], None]
    update: Callable[[int], None]
    store: Callable[[int], None]


def relay(device: Device, jobs: Sequence[Job]) -> None:
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
class AtOnce(Stream):
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
        self.incoming = self.outgoing = AtOnce()

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

"""A stand-in for NVIDIA's driver and a card: the driver's C interface, which runs kernels on the CPU and records calls.

Its functions are C functions, so that arguments pass through ctypes as they do to the driver, and a wrong type or a
pointer that dangles is seen. A kernel is known by its PTX, and runs as its body compiled for the CPU; that the PTX does
the same is shown elsewhere (:mod:`tests.ptx`). It runs when it is launched. What needs a device is not shown: that
launches do not wait, and that a device has memory of its own.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from gradstep.engines.cuda.driver import FUNCTIONS, CudaDriver
from gradstep.storage.policy import UpdateSpec
from tests.devices import host_loop_of

INVALID_CONTEXT, INVALID_PTX, INVALID_VALUE = 201, 218, 1
WORDS = {
    INVALID_CONTEXT: (b"CUDA_ERROR_INVALID_CONTEXT", b"invalid device context"),
    INVALID_PTX: (b"CUDA_ERROR_INVALID_PTX", b"a PTX JIT compilation failed"),
    INVALID_VALUE: (b"CUDA_ERROR_INVALID_VALUE", b"invalid argument"),
}


class FakeLibrary:
    """The driver's functions.

    Attributes:
        calls: the name of each function that was called, with what a test may compare.
        fails: the error that a function returns instead of doing anything, by its name.
        context: the current context.
        specs: the update of each PTX that it can run.
        twist: called with a kernel's arguments after it has run, to damage what it wrote.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.fails: dict[str, int] = {}
        self.context = 7
        self.specs: dict[str, UpdateSpec] = {}
        self.twist: Callable[[list[int]], None] | None = None
        self._kernels: list[str] = []
        self._words = {code: [ctypes.c_char_p(text) for text in words] for code, words in WORDS.items()}
        for name, arguments in FUNCTIONS.items():
            setattr(self, name, ctypes.CFUNCTYPE(ctypes.c_int, *arguments)(self._entry(name)))

    def names(self) -> list[str]:
        return [name for name, *_ in self.calls]

    def _entry(self, name: str) -> Any:
        method = getattr(self, f"_{name}")

        def call(*arguments: Any) -> int:
            if name in self.fails:
                self.calls.append((name,))
                return self.fails[name]
            return int(method(*arguments))

        return call

    def _cuInit(self, flags: int) -> int:
        self.calls.append(("cuInit", flags))
        return 0

    def _describe(self, code: int, place: int, which: int) -> int:
        if code not in self._words:
            return INVALID_VALUE
        ctypes.c_char_p.from_address(place).value = self._words[code][which].value
        return 0

    def _cuGetErrorName(self, code: int, place: int) -> int:
        return self._describe(code, place, 0)

    def _cuGetErrorString(self, code: int, place: int) -> int:
        return self._describe(code, place, 1)

    def _cuCtxGetCurrent(self, place: int) -> int:
        self.calls.append(("cuCtxGetCurrent",))
        ctypes.c_void_p.from_address(place).value = self.context
        return 0

    def _cuModuleLoadDataEx(self, place: int, text: bytes, count: int, options: int, values: int) -> int:
        self.calls.append(("cuModuleLoadDataEx",))
        given = dict(zip((ctypes.c_int * count).from_address(options), (ctypes.c_void_p * count).from_address(values)))
        ptx = text.decode("ascii")
        if not ptx.rstrip().endswith("}"):
            ctypes.memmove(given[5], b"line 7: unexpected end of file\0", 31)
            assert given[6] >= 31
            return INVALID_PTX
        self._kernels.append(ptx)
        ctypes.c_void_p.from_address(place).value = len(self._kernels)
        return 0

    def _cuModuleGetFunction(self, place: int, module: int, name: bytes) -> int:
        self.calls.append(("cuModuleGetFunction", name))
        if f".entry {name.decode()}(" not in self._kernels[module - 1]:
            return INVALID_VALUE
        ctypes.c_void_p.from_address(place).value = module
        return 0

    def _cuLaunchKernel(self, kernel: int, *numbers: Any) -> int:
        *grid, stream, parameters, extra = numbers
        blocks, *ones, threads, depth, height, shared = grid
        assert (*ones, depth, height, shared, extra) == (1, 1, 1, 1, 0, None)
        ptx = self._kernels[kernel - 1]
        most = re.search(r"\.maxntid (\d+)", ptx)
        assert most
        if threads > int(most[1]) or threads % 32 or not blocks:
            return INVALID_VALUE
        count = ptx.partition("(")[2].partition(")")[0].count(".param")
        places = (ctypes.c_void_p * count).from_address(parameters)
        values = [ctypes.c_int64.from_address(place or 0).value for place in places]
        self.calls.append(("cuLaunchKernel", blocks, threads, stream or 0, *values))
        if self.specs:
            host_loop_of(self.specs[ptx])(*values, blocks, threads)
        if self.twist is not None:
            self.twist(values)
        return 0


def make_driver() -> tuple[CudaDriver, FakeLibrary]:
    """Return a driver on a stand-in, and the stand-in."""
    library = FakeLibrary()
    return CudaDriver(library), library


def without(library: FakeLibrary, name: str) -> Any:
    """Return a library that lacks a function."""
    return SimpleNamespace(**{other: getattr(library, other) for other in FUNCTIONS if other != name})

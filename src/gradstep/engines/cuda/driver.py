"""NVIDIA's driver through ctypes: it assembles PTX for its card, and launches the kernel on a stream of torch's.

Only what an update needs, with the names of the driver's interface. Nothing here imports torch: the context that torch
has made must be current in the calling thread, and a stream is a number.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Sequence
from functools import cache
from typing import Any, final

FUNCTIONS: dict[str, list[Any]] = {
    "cuInit": [ctypes.c_uint],
    "cuGetErrorName": [ctypes.c_int, ctypes.c_void_p],
    "cuGetErrorString": [ctypes.c_int, ctypes.c_void_p],
    "cuCtxGetCurrent": [ctypes.c_void_p],
    "cuModuleLoadDataEx": [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_uint, ctypes.c_void_p, ctypes.c_void_p],
    "cuModuleGetFunction": [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p],
    "cuLaunchKernel": [ctypes.c_void_p, *[ctypes.c_uint] * 7, *[ctypes.c_void_p] * 3],
}
"""The driver's functions that are used, with the types of their arguments; each returns 0, or an error's number."""

ERROR_LOG, ERROR_LOG_BYTES = 5, 6
"""``CU_JIT_ERROR_LOG_BUFFER`` and ``CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES``."""

LOG_BYTES = 8_192


class DriverError(RuntimeError):
    """The driver is missing, or one of its functions has failed."""


@final
class CudaDriver:
    """The driver.

    Args:
        library: has :data:`FUNCTIONS` as attributes, which are functions of ctypes.

    Raises:
        DriverError: a function is missing, or the driver finds no card.
    """

    def __init__(self, library: Any) -> None:
        self._functions: dict[str, Any] = {}
        for name, arguments in FUNCTIONS.items():
            try:
                function = getattr(library, name)
            except AttributeError:
                raise DriverError(f"NVIDIA's driver has no function {name}: install a newer driver") from None
            function.argtypes, function.restype = arguments, ctypes.c_int
            self._functions[name] = function
        self._call("cuInit", 0)

    def load(self, ptx: str, name: str = "task") -> int:
        """Assemble PTX for the card of the current context, and return the kernel of this name.

        The kernel stays loaded as long as the process lives.

        Raises:
            DriverError: no context is current in this thread, or the driver refuses the PTX, for the reason given.
        """
        context = ctypes.c_void_p()
        self._call("cuCtxGetCurrent", ctypes.byref(context))
        if not context.value:
            raise DriverError("no CUDA context is current in this thread: torch makes one with its first tensor there")
        log = ctypes.create_string_buffer(LOG_BYTES)
        options = (ctypes.c_int * 2)(ERROR_LOG, ERROR_LOG_BYTES)
        values = (ctypes.c_void_p * 2)(ctypes.addressof(log), LOG_BYTES)
        module, kernel = ctypes.c_void_p(), ctypes.c_void_p()
        try:
            self._call("cuModuleLoadDataEx", ctypes.byref(module), ptx.encode("ascii"), 2, options, values)
        except DriverError as error:
            words = log.value.decode(errors="replace").strip()
            raise DriverError(f"{error}: {words}" if words else str(error)) from None
        self._call("cuModuleGetFunction", ctypes.byref(kernel), module, name.encode("ascii"))
        assert kernel.value is not None
        return kernel.value

    def launch(self, kernel: int, blocks: int, threads: int, stream: int, arguments: Sequence[int]) -> None:
        """Put a kernel on a stream, and return without waiting for it.

        Args:
            kernel: from :meth:`load`, in the same context.
            blocks, threads: how many blocks, and threads of each.
            stream: the driver's number of the stream; 0 is the default stream.
            arguments: the kernel's arguments, 64 bits each. What they point to must live until the kernel has run.

        Raises:
            DriverError: the driver refuses the launch, or reports an error of an earlier one.
        """
        values = (ctypes.c_int64 * len(arguments))(*arguments)
        step = ctypes.sizeof(ctypes.c_int64)
        places = [ctypes.addressof(values) + k * step for k in range(len(arguments))]
        pointers = (ctypes.c_void_p * len(arguments))(*places)
        self._call("cuLaunchKernel", kernel, blocks, 1, 1, threads, 1, 1, 0, stream, pointers, None)

    def _call(self, name: str, *arguments: Any) -> None:
        code = self._functions[name](*arguments)
        if code:
            raise DriverError(f"{name} failed with {self._describe(code)}")

    def _describe(self, code: int) -> str:
        """Return the name and the description of an error."""
        words = []
        for function in ("cuGetErrorName", "cuGetErrorString"):
            text = ctypes.c_char_p()
            if self._functions[function](code, ctypes.byref(text)) == 0 and text.value:
                words.append(text.value.decode(errors="replace"))
        return f"{' '.join(words)} (error {code})" if words else f"error {code}"


@cache
def open_driver() -> CudaDriver:
    """Return the driver of this machine.

    Raises:
        DriverError: there is none, or it finds no card.
    """
    name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        library = ctypes.CDLL(name)
    except OSError as error:
        raise DriverError(f"NVIDIA's driver cannot be loaded ({error})") from None
    return CudaDriver(library)

"""The driver's calls, their order and their errors, with a stand-in that has the driver's C interface."""

import ctypes
import re

import pytest

from gradstep.engines.cuda.driver import CudaDriver, DriverError, open_driver
from gradstep.rules import SGD
from tests.cuda_driver import INVALID_CONTEXT, FakeLibrary, make_driver, without
from tests.devices import ptx_of, spec_of


@pytest.fixture(scope="module")
def ptx():
    return ptx_of(spec_of(SGD(lr=0.1), "float32", "float32", "nearest"))


def test_a_kernel_is_loaded_and_launched(ptx):
    made, library = make_driver()
    kernel = made.load(ptx)
    made.launch(kernel, 3, 256, 0xABCDEF0123456789, [1 << 60, 2, -3, 4])
    expected = ["cuInit", "cuCtxGetCurrent", "cuModuleLoadDataEx", "cuModuleGetFunction", "cuLaunchKernel"]
    assert library.names() == expected
    assert library.calls[0] == ("cuInit", 0)
    assert library.calls[3] == ("cuModuleGetFunction", b"task")
    assert library.calls[4][1:] == (3, 256, 0xABCDEF0123456789, 1 << 60, 2, -3, 4)


def test_errors_have_the_drivers_words(ptx):
    made, library = make_driver()
    with pytest.raises(
        DriverError, match=r"cuModuleLoadDataEx failed with CUDA_ERROR_INVALID_PTX .*\(error 218\): line 7"
    ):
        made.load(ptx[:-40])
    with pytest.raises(DriverError, match="cuModuleGetFunction failed with CUDA_ERROR_INVALID_VALUE invalid argument"):
        made.load(ptx, "other")
    kernel = made.load(ptx)
    with pytest.raises(DriverError, match="cuLaunchKernel failed with CUDA_ERROR_INVALID_VALUE"):
        made.launch(kernel, 1, 512, 0, [0, 0, 0, 0])
    library.fails["cuLaunchKernel"] = 999
    with pytest.raises(DriverError, match=r"cuLaunchKernel failed with error 999$"):
        made.launch(kernel, 1, 256, 0, [0, 0, 0, 0])


def test_a_thread_without_a_context_is_told_so(ptx):
    made, library = make_driver()
    library.context = 0
    with pytest.raises(DriverError, match="no CUDA context is current in this thread"):
        made.load(ptx)
    assert "cuModuleLoadDataEx" not in library.names()


def test_a_driver_that_lacks_a_function_or_a_card_is_refused():
    library = FakeLibrary()
    with pytest.raises(DriverError, match="has no function cuLaunchKernel: install a newer driver"):
        CudaDriver(without(library, "cuLaunchKernel"))
    library.fails["cuInit"] = INVALID_CONTEXT
    with pytest.raises(DriverError, match="cuInit failed with CUDA_ERROR_INVALID_CONTEXT"):
        CudaDriver(library)


def test_a_machine_without_a_driver_says_so(monkeypatch):
    def refuse(name):
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", refuse)
    with pytest.raises(DriverError, match=re.escape("NVIDIA's driver cannot be loaded (")):
        open_driver.__wrapped__()

"""The CUDA engine without a card: its launches run on the CPU, by a stand-in for the driver, on tensors of the CPU."""

import ctypes
import importlib
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import gradstep
from gradstep.engines.cuda.card import Card
from gradstep.engines.cuda.check import LENGTHS, STEPS, count_differences, count_unequal
from gradstep.engines.cuda.driver import CudaDriver, DriverError
from gradstep.engines.cuda.engine import FusedCuda
from gradstep.optimizers.paged import host_memory
from gradstep.optimizers.paged.host_memory import Host
from gradstep.optimizers.state import engines
from gradstep.rules import AdamW
from tests.cuda_driver import FakeLibrary
from tests.devices import STORAGES, ptx_of, spec_of
from tests.registry import subjects

SUBJECTS = [param.values[0] for param in subjects(elementwise=True)]


class HostCard(Card):
    """The CPU in the place of a card; it counts what is uploaded."""

    def __init__(self, number: int = 0) -> None:
        self.name, self.capability, self.processors = f"a stand-in (cuda:{number})", (8, 0), 2
        self.stream, self.capturing, self.uploads = 0, False, 0

    @contextmanager
    def use(self):
        yield self.stream

    def upload(self, numbers):
        self.uploads += 1
        return torch.from_numpy(np.ascontiguousarray(numbers).reshape(-1).view(np.uint8)).clone()

    def is_capturing(self):
        return self.capturing


class StandIn:
    """An engine on a stand-in, which takes the place of the fused engine for tensors of the CPU."""

    def __init__(self, monkeypatch):
        self.library, self.card = FakeLibrary(), HostCard()
        self.driver = CudaDriver(self.library)
        self.engine = FusedCuda("cpu", lambda: self.driver, lambda number: self.card)
        monkeypatch.setattr("gradstep.engines.cuda.ptx.emit_ptx", self.emit)
        monkeypatch.setitem(engines.ENGINES_ON, "cpu", {**engines.ENGINES, "fused": self.engine})

    def emit(self, spec):
        text = ptx_of(spec)
        self.library.specs[text] = spec
        return text

    @property
    def launches(self):
        return [call for call in self.library.calls if call[0] == "cuLaunchKernel"]

    def break_kernels(self, place):
        """Let every launch change a byte, so many bytes after the parameter of the first tensor begins."""

        def twist(arguments):
            row = (ctypes.c_int64 * 4).from_address(arguments[0])
            ctypes.c_uint8.from_address(row[1] + place).value ^= 1

        self.library.twist = twist


@pytest.fixture
def stand_in(monkeypatch):
    return StandIn(monkeypatch)


def parameters(dtype=torch.float32, more=()):
    generator = torch.Generator().manual_seed(0)
    sizes = [(40, 300), (7,), (9_000,), (1,), (64, 64), *more]
    return [torch.randn(*size, generator=generator).to(dtype).requires_grad_() for size in sizes]


def train(optimizer, params, steps=3):
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        for p in params:
            p.grad = torch.randn(p.shape, generator=generator).to(p.dtype)
        optimizer.step()


CASES = [
    ("AdamW", torch.float32, {}),
    ("AdamW", torch.bfloat16, {"state": "8bit", "rounding": "stochastic"}),
    ("Lion", torch.float32, {"state": "4bit"}),
    ("SGD", torch.bfloat16, {"rounding": "kahan", "momentum": 0.9}),
]


@pytest.mark.parametrize(("name", "dtype", "options"), CASES)
def test_steps_are_the_cpu_kernels_bit_for_bit(monkeypatch, name, dtype, options):
    expected = parameters(dtype)
    other = getattr(gradstep, name)(expected, lr=1e-2, engine="fused", **options)
    train(other, expected)
    stand_in = StandIn(monkeypatch)
    params = parameters(dtype)
    optimizer = getattr(gradstep, name)(params, lr=1e-2, engine="fused", **options)
    train(optimizer, params)
    assert {engine for _, engine, _ in optimizer.engines()} == {"fused"}
    assert stand_in.launches
    for p, q in zip(params, expected, strict=True):
        assert torch.equal(p, q)
        for key, value in other.state[q].items():
            assert torch.equal(optimizer.state[p][key], value)


def test_a_step_is_one_launch_and_uploads_what_has_changed(stand_in):
    params = parameters()
    optimizer = gradstep.AdamW(params)
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer.step()
    launches, uploads = len(stand_in.launches), stand_in.card.uploads
    optimizer.step()
    assert len(stand_in.launches) == launches + 1
    assert stand_in.card.uploads == uploads + 1  # the coefficients
    params[0].grad = torch.ones_like(params[0])
    optimizer.step()
    assert stand_in.card.uploads == uploads + 3  # and the table, with another address
    stand_in.card.stream = 5
    optimizer.step()
    assert stand_in.launches[-1][3] == 5
    assert stand_in.card.uploads == uploads + 6  # another stream does not wait for the first one's uploads


@pytest.mark.parametrize("place", [0, 3, 4, -1])  # the last two are beside the parameter, which has one element
def test_a_wrong_kernel_is_switched_off_with_one_warning(stand_in, place):
    stand_in.break_kernels(place)
    params, expected = parameters(), parameters()
    optimizer = gradstep.AdamW(params, lr=1e-2)
    with pytest.warns(
        UserWarning, match="kernel of AdamW .*computed . of .* numbers wrongly on a stand-in.* report it"
    ):
        train(optimizer, params, 1)
    launches = len(stand_in.launches)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(optimizer, params, 2)
        train(gradstep.AdamW(more := parameters()), more, 1)
    assert len(stand_in.launches) == launches
    _, engine, reason = optimizer.engines()[0]
    assert engine == "foreach"
    assert "numbers wrongly" in reason
    with pytest.raises(ValueError, match="numbers wrongly"):
        gradstep.AdamW(parameters(), engine="fused")
    other = gradstep.AdamW(expected, lr=1e-2, engine="foreach")
    train(other, expected, 1)
    train(other, expected, 2)
    assert all(map(torch.equal, params, expected))


def test_what_the_kernel_cannot_do_has_its_reason(stand_in, monkeypatch):
    def reasons(**options):
        params = parameters(options.pop("dtype", torch.float32))
        found = gradstep.AdamW(params, **options).engines()
        assert {engine for _, engine, _ in found} == {"foreach"}
        return found[0][2]

    with monkeypatch.context() as patch:
        patch.setenv("GRADSTEP_CUDA_KERNELS", "0")
        assert "GRADSTEP_CUDA_KERNELS=0 switches its kernels off" in reasons()
    stand_in.card.capability = (7, 5)
    assert "a stand-in (cuda:0) has compute capability 7.5 and the kernel needs 8.0" in reasons()
    stand_in.card.capability = (9, 0)
    stand_in.library.fails["cuModuleLoadDataEx"] = 218
    with pytest.warns(UserWarning, match="cannot be loaded on a stand-in .*CUDA_ERROR_INVALID_PTX"):
        assert "cannot be loaded" in reasons()
    assert not stand_in.launches

    def find_no_driver():
        raise DriverError("NVIDIA's driver cannot be loaded (libcuda.so.1)")

    monkeypatch.setitem(engines.ENGINES_ON, "cpu", {**engines.ENGINES, "fused": FusedCuda("cpu", find_no_driver)})
    assert reasons() == "not fused because NVIDIA's driver cannot be loaded (libcuda.so.1)"
    (_, engine, reason), *_ = gradstep.Adafactor(parameters()).engines()
    assert engine == "eager"
    assert "Adafactor looks at whole tensors" in reason


def test_a_failed_launch_of_the_check_says_what_to_do(stand_in):
    stand_in.library.fails["cuLaunchKernel"] = 1
    with pytest.raises(RuntimeError, match=r"check of the kernel of AdamW has failed .*GRADSTEP_CUDA_KERNELS=0"):
        gradstep.AdamW(parameters(), engine="fused")


def test_statistics_and_graphs_are_left_to_foreach(stand_in):
    params, expected = parameters(), parameters()
    optimizer, other = gradstep.AdamW(params), gradstep.AdamW(expected, engine="foreach")
    stand_in.card.capturing = True
    assert "was not checked before a CUDA graph was recorded" in optimizer.engines()[0][2]
    stand_in.card.capturing = False
    assert optimizer.engines()[0][1] == "fused"
    launches = len(stand_in.launches)
    optimizer.watch = other.watch = "parameters"
    train(optimizer, params, 1)
    train(other, expected, 1)
    optimizer.watch = other.watch = None
    stand_in.card.capturing = True
    train(optimizer, params, 1)
    train(other, expected, 1)
    assert len(stand_in.launches) == launches
    assert all(map(torch.equal, params, expected))


@pytest.mark.parametrize("options", [{}, {"state": "8bit", "rounding": "stochastic"}], ids=str)
def test_paged_state_is_updated_where_its_window_is(stand_in, monkeypatch, options):
    """The windows' arrays are at other addresses than the parameters' own, and draw the noise of whole parameters."""
    monkeypatch.setitem(host_memory.DEVICES, "cpu", Host)
    results = []
    pagings: list[dict[str, Any]] = [{}, {"paged": True, "page_budget": "500KB"}]
    for paging in pagings:
        params = parameters(torch.bfloat16, more=[(700, 400)])
        optimizer = gradstep.AdamW(params, lr=1e-2, engine="fused", seed=3, **paging, **options)
        train(optimizer, params)
        results.append([p.detach() for p in params])
    assert all(map(torch.equal, *results))
    assert stand_in.launches


def test_switching_kernels_off_between_steps_goes_on_by_foreach(stand_in, monkeypatch):
    params = parameters()
    optimizer = gradstep.AdamW(params, lr=1e-2)
    train(optimizer, params, 1)
    launches, before = len(stand_in.launches), params[0].detach().clone()
    monkeypatch.setenv("GRADSTEP_CUDA_KERNELS", "0")
    train(optimizer, params, 1)
    assert len(stand_in.launches) == launches
    assert not torch.equal(params[0], before)


def test_some_gradients_different_steps_and_clipping(stand_in, monkeypatch):
    """Rows of coefficients, positions among the parameters, and a norm: as the fused kernel of the CPU."""
    results = []
    for place in (engines.ENGINES_ON["cpu"], engines.ENGINES):
        monkeypatch.setitem(engines.ENGINES_ON, "cpu", place)
        params = parameters()
        optimizer = gradstep.AdamW([{"params": params[:2]}, {"params": params[2:], "lr": 1e-2}], engine="fused")
        for step in range(3):
            for k, p in enumerate(params):
                p.grad = torch.full_like(p, 0.1 * (k + step)) if (k + step) % 3 else None
            optimizer.step(max_grad_norm=1e6)
        results.append([p.detach().clone() for p in params])
    assert stand_in.launches
    assert all(map(torch.equal, *results))


def load_benchmark(monkeypatch):
    folder = Path(__file__).parents[2] / "benchmarks"
    monkeypatch.syspath_prepend(folder)
    return importlib.import_module("cuda")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card")
def test_the_benchmark_says_that_it_has_not_run(monkeypatch):
    monkeypatch.setattr("sys.argv", ["cuda.py"])
    with pytest.raises(SystemExit, match=r"^not run: torch sees no NVIDIA card here"):
        load_benchmark(monkeypatch).main()


@pytest.mark.slow
def test_the_benchmark_can_be_rehearsed(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["cuda.py", "--rehearse"])
    load_benchmark(monkeypatch).main()
    page = capsys.readouterr().out
    assert "a rehearsal on the CPU" in page
    assert "| AdamW | float32 | rehearsed |" in page
    assert "as the reference" not in page
    assert "failed" not in page


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(SUBJECTS)), ids=[subject.name for subject in SUBJECTS])
def test_no_right_kernel_fails_its_check(stand_in, number):
    """Each rule with a third of the storages: the check draws coefficients, and gradients that are not finite."""
    subject = SUBJECTS[number]
    rule = subject.rule(**subject.options[-1])
    for storage in STORAGES[number % 3 :: 3]:
        spec = spec_of(rule, *storage)
        kernel = stand_in.driver.load(stand_in.emit(spec))
        differences, compared = count_differences(stand_in.driver, stand_in.card, kernel, 0, spec)
        assert differences == 0, storage
        assert compared >= 2 * STEPS * sum(LENGTHS)


def test_a_nan_is_a_nan_whatever_its_bits():
    """A card's NaN has all bits, so 255 in the low byte of a weight in 24 bits; a CPU's has one, and the byte 0."""
    codec = spec_of(AdamW(), "bfloat16", "float32", "24bit").parameter
    card: list[Any] = [np.array([0x7FFF, 0x3F80, 0x3F80], np.uint16), np.array([255, 7, 7], np.uint8)]
    cpu: list[Any] = [np.array([0xFFC0, 0x3F80, 0x7FFF], np.uint16), np.array([0, 8, 7], np.uint8)]
    assert count_unequal(codec, card, cpu) == 2

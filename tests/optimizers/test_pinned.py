"""State in the host's memory, for parameters on a device: the schedule, and the same bits as resident state.

There need be no GPU: the CPU stands in for one. Its copies and computations are queued, and done in any order that the
events allow.
"""

import copy
import random
from collections import deque
from functools import partial
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import gradstep
from gradstep.engines.eager import Eager
from gradstep.optimizers.paged import host_memory
from gradstep.optimizers.paged.host_memory import Device, Host, Stream, WindowJob, relay
from tests.training import assert_same, normal

SHAPES = [(60, 100), (100,), (1, 70_001), (70, 60), (64, 128)]
RULES: dict[str, Any] = {
    "AdamW": (gradstep.AdamW, {"weight_decay": 0.1}),
    "Lion": (gradstep.Lion, {"lr": 1e-3}),
    "SGD": (gradstep.SGD, {"lr": 1e-2, "momentum": 0.9}),
    "Adagrad": (gradstep.Adagrad, {"initial_accumulator_value": 0.5}),
    "NAdam": (gradstep.NAdam, {}),
}
TIGHT = "500KB"
RESIDENT: dict[str, Any] = {}
PAGED: dict[str, Any] = {"paged": True, "page_budget": TIGHT}
RESIDENT_AND_PAGED = [RESIDENT, PAGED]


class Queue(Stream):
    """A stream whose work is done later; an event is a place in it."""

    def __init__(self) -> None:
        self.waiting: deque[Any] = deque()
        self.added = self.done = 0

    def do(self, work: Any) -> None:
        self.waiting.append(work)
        self.added += 1

    def record(self) -> Any:
        return self, self.added

    def wait(self, event: Any) -> None:
        self.do(event)

    def go_on(self) -> bool:
        """Do the next thing, if it may be done by now."""
        if not self.waiting:
            return False
        if isinstance(self.waiting[0], tuple):
            stream, place = self.waiting[0]
            if stream.done < place:
                return False
            self.waiting.popleft()
        else:
            self.waiting.popleft()()
        self.done += 1
        return True


class Later(Device):
    """A device that does everything in an order of its own, of those that the events allow."""

    made: ClassVar[list[Any]] = []

    def __init__(self, device: torch.device, seed: int = 0) -> None:
        self.device = device
        self.queues = self.incoming, self._computing, self.outgoing = Queue(), Queue(), Queue()
        self.order = random.Random(seed)
        self.favourite = self.order.randrange(3)
        self.pinned: list[torch.Tensor] = []
        self.buffers: list[torch.Tensor] = []
        self.most = 0
        Later.made.append(self)

    @property
    def computing(self) -> Queue:
        return self._computing

    def pin(self, memory: torch.Tensor) -> None:
        self.pinned.append(memory)

    def buffer(self, nbytes: int) -> torch.Tensor:
        self.buffers.append(torch.full((nbytes,), 255, dtype=torch.uint8))  # NaN, wherever it is read unfilled
        return self.buffers[-1]

    def finish(self) -> None:
        while any(queue.waiting for queue in self.queues):
            # One stream is faster than the others, so that it comes to everything as early as it may.
            first = self.queues[self.favourite]
            turn = sorted(self.queues, key=lambda queue: (queue is not first, self.order.random()))
            assert any(queue.go_on() for queue in turn), "the streams wait for each other"
        self.most = max(self.most, sum(buffer.nbytes for buffer in self.buffers))
        self.buffers.clear()


@pytest.fixture(params=["at once", 0, 1])
def device(request, monkeypatch):
    """Parameters on the CPU are served as if it were a device."""
    kind = Host if request.param == "at once" else partial(Later, seed=request.param)
    monkeypatch.setitem(host_memory.DEVICES, "cpu", kind)
    Later.made.clear()
    return kind


def made(kind: Any, dtype: torch.dtype = torch.float32, **options: Any) -> tuple[Any, list[torch.Tensor]]:
    params = [normal(*s, seed=i, dtype=dtype).requires_grad_() for i, s in enumerate(SHAPES)]
    params[3] = normal(60, 70, dtype=dtype).t().requires_grad_()  # in another order of memory
    return kind([{"params": params[:2]}, {"params": params[2:], "lr": 3e-3}], seed=4, engine="eager", **options), params


def stepped(optimizer: Any, params: list[torch.Tensor], steps: range) -> None:
    for t in steps:
        for i, p in enumerate(params):
            p.grad = normal(*p.shape, seed=100 * t + i, dtype=p.dtype)
        if t % 3 == 1:
            params[2].grad = None
        optimizer.step(max_grad_norm=5.0)


def both(kind: Any, dtype: torch.dtype = torch.float32, *, page_budget: str = TIGHT, **options: Any) -> Any:
    resident, params = made(kind, dtype, **options)
    paged, others = made(kind, dtype, paged=True, page_budget=page_budget, **options)
    stepped(resident, params, range(4))
    stepped(paged, others, range(4))
    assert_same(resident, paged)
    return paged


@pytest.mark.parametrize("rule", RULES)
def test_the_same_bits_for_every_kind_of_slot(rule, device):
    kind, options = RULES[rule]
    both(kind, **options)


@pytest.mark.parametrize("state", ["bfloat16", "8bit"])
def test_the_same_bits_in_every_precision_of_state(state, device):
    both(gradstep.AdamW, state=state)


@pytest.mark.parametrize("rounding", ["stochastic", "24bit", "kahan", "master"])
def test_the_same_bits_for_parameters_of_16_bits(rounding, device):
    both(gradstep.AdamW, torch.bfloat16, rounding=rounding, state="8bit")


def test_memory_of_the_device_stays_within_the_budget(device):
    optimizer = both(gradstep.AdamW, page_budget="450KB")
    if device is not Host:
        (served,) = Later.made
        assert 300_000 < served.most <= 450_000
        assert sum(memory.nbytes for memory in served.pinned) > 700_000
    assert optimizer.state_summary().nbytes > 700_000


def test_state_is_not_on_the_device_between_steps(device):
    optimizer = both(gradstep.AdamW)
    pinned = {m.untyped_storage().data_ptr(): m.nbytes for arena in optimizer._paged._arenas for m in [arena.memory]}
    for entry in optimizer.state.values():
        for key in ("exp_avg", "exp_avg_sq"):
            assert any(0 <= entry[key].data_ptr() - begin < size for begin, size in pinned.items())


@pytest.mark.parametrize(
    ("out", "into"), [(RESIDENT, PAGED), (PAGED, RESIDENT), (PAGED, PAGED)], ids=["in", "out", "both"]
)
def test_checkpoints_go_in_and_out(out, into, device):
    through, params = made(gradstep.AdamW, state="8bit", **out)
    stepped(through, params, range(2))
    other, others = made(gradstep.AdamW, state="8bit", **into)
    stepped(other, others, range(1))
    for p, q in zip(params, others, strict=True):
        q.data.copy_(p.data)
    other.load_state_dict(through.state_dict())
    stepped(through, params, range(2, 4))
    stepped(other, others, range(2, 4))
    assert_same(through, other)


def test_a_copy_has_memory_of_its_own(device):
    optimizer, params = made(gradstep.AdamW, paged=True, page_budget=TIGHT)
    stepped(optimizer, params, range(2))
    twin, others = copy.deepcopy((optimizer, params))
    stepped(twin, others, range(2, 4))
    stepped(optimizer, params, range(2, 4))
    assert_same(optimizer, twin)


def test_state_that_was_removed_begins_anew(device):
    found = []
    for options in RESIDENT_AND_PAGED:
        optimizer, params = made(gradstep.AdamW, **options)
        stepped(optimizer, params, range(2))
        optimizer.state[params[0]].clear()
        stepped(optimizer, params, range(2, 3))
        found.append(optimizer)
    assert_same(*found)


def test_a_group_that_comes_later_gets_memory_too(device):
    found = []
    for options in RESIDENT_AND_PAGED:
        optimizer, params = made(gradstep.AdamW, **options)
        stepped(optimizer, params, range(2))
        late = normal(50, 90).requires_grad_()
        optimizer.add_param_group({"params": [late]})
        stepped(optimizer, [*params, late], range(2, 4))
        found.append(optimizer)
    assert_same(*found)


def test_statistics_are_those_of_whole_parameters(device):
    found = []
    for options in RESIDENT_AND_PAGED:
        optimizer, params = made(gradstep.AdamW, **options)
        optimizer.watch = "parameters"
        stepped(optimizer, params, range(2))
        found.append(optimizer.last_step.statistics)
    one, two = found
    assert list(one.names) == list(two.names)
    for name in ("grad_square", "param_square", "update_square", "unmoved", "second_min", "second_max"):
        ours, theirs = (torch.as_tensor(getattr(s, name)) for s in (one, two))
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0.0)


def test_a_parameter_with_gaps_in_its_memory_is_taken_whole(device):
    found = []
    for options in RESIDENT_AND_PAGED:
        p = normal(100, 200)[:, ::2].requires_grad_()
        optimizer = gradstep.AdamW([p], engine="eager", **options)
        for t in range(3):
            p.grad = normal(100, 100, seed=t)
            optimizer.step()
        found.append(optimizer)
    assert_same(*found)


@pytest.mark.parametrize("shapes", [[(0, 3)], [(0, 3), (), (1,), (5, 7)]])
def test_parameters_of_no_element_and_of_one(device, shapes):
    found = []
    for options in RESIDENT_AND_PAGED:
        params = [normal(*shape).requires_grad_() for shape in shapes]
        optimizer = gradstep.AdamW(params, engine="eager", **options)
        for p in params:
            p.grad = torch.ones_like(p)
        optimizer.step()
        found.append(optimizer)
    assert_same(*found)


def test_an_error_in_mid_step_leaves_nothing_under_way(device, monkeypatch):
    optimizer, params = made(gradstep.AdamW, paged=True, page_budget=TIGHT)
    stepped(optimizer, params, range(1))

    def fails(self: Any, batch: Any) -> None:
        raise OSError("out of order")

    monkeypatch.setattr(Eager, "update", fails)
    with pytest.raises(OSError, match="out of order"):
        stepped(optimizer, params, range(1, 2))


@given(st.integers(0, 10), st.integers(0, 1 << 30))
def test_the_schedule(windows, seed):
    """Every window arrives, is computed and leaves; no buffer is used again before what was in it has left."""
    device = Later(torch.device("cpu"), seed)
    holds: dict[int, tuple[int, str]] = {}
    log = []

    class Job(WindowJob):
        def __init__(self, k: int) -> None:
            self.k = k

        def fetch(self, buffer: int) -> None:
            assert buffer not in holds, "it has not left"
            holds[buffer] = (self.k, "arrived")

        def update(self, buffer: int) -> None:
            assert holds[buffer] == (self.k, "arrived")
            holds[buffer] = (self.k, "computed")

        def store(self, buffer: int) -> None:
            assert holds.pop(buffer) == (self.k, "computed")
            log.append(self.k)

    relay(device, [Job(k) for k in range(windows)])
    assert log == list(range(windows))
    assert not holds


class LoggedJob(WindowJob):
    """A job that only adds lines to a log."""

    def __init__(self, log: list[str], name: str) -> None:
        self.log, self.name = log, name

    def fetch(self, buffer: int) -> None:
        self.log.append(f"in{self.name}")

    def update(self, buffer: int) -> None:
        self.log.append(f"compute{self.name}")

    def store(self, buffer: int) -> None:
        self.log.append(f"out{self.name}")


def test_copies_go_on_while_the_device_computes():
    """The next window arrives before the present one is computed, and may do so while the one before leaves."""
    device = Later(torch.device("cpu"))
    device.favourite = 0  # copies to the device come as early as they may
    log: list[str] = []
    relay(device, [LoggedJob(log, f" {k}") for k in range(5)])
    assert log[:3] == ["in 0", "in 1", "in 2"]
    assert log.index("in 3") == log.index("out 0") + 1


def test_nothing_arrives_before_the_device_has_done_what_it_was_given_earlier():
    """Its buffers may be memory that this still uses."""
    device = Later(torch.device("cpu"))
    device.favourite = 0
    log: list[str] = []
    device.computing.do(lambda: log.append("earlier"))
    relay(device, [LoggedJob(log, "")])
    assert log == ["earlier", "in", "compute", "out"]


def test_a_budget_that_nothing_fits_is_refused_with_one_that_does(monkeypatch):
    monkeypatch.setitem(host_memory.DEVICES, "cpu", Host)
    optimizer, params = made(gradstep.AdamW, paged=True, page_budget="10KB")
    with pytest.raises(ValueError, match=r"Invalid page budget: 10 KB .* give at least 393 KB"):
        stepped(optimizer, params, range(1))


def test_what_cannot_be_honoured_is_said(monkeypatch, tmp_path):
    monkeypatch.setitem(host_memory.DEVICES, "cpu", Host)
    p = torch.ones(3, 3, requires_grad=True)
    with pytest.raises(ValueError, match="give paged=True, which keeps state in the host's memory"):
        gradstep.AdamW([p], paged=tmp_path)
    with pytest.raises(ValueError, match="Adafactor looks at whole parameters"):
        gradstep.Adafactor([p], paged=True)
    with pytest.raises(ValueError, match="no disk has a part"):
        gradstep.AdamW([p], paged=True).preflight()
    monkeypatch.setattr("gradstep.optimizers.paged.host.available_memory", lambda: 10)
    with pytest.raises(MemoryError, match="needs 76 B, 10 B are available"):
        gradstep.AdamW([p], paged=True)


def test_other_devices_are_refused():
    on_cpu, elsewhere = torch.ones(3, requires_grad=True), torch.ones(3, device="meta", requires_grad=True)
    with pytest.raises(ValueError, match="on the CPU or on CUDA, and parameter 0 of group 0 is on meta"):
        gradstep.AdamW([elsewhere], paged=True)
    with pytest.raises(ValueError, match="parameter 0 of group 0 on cpu, parameter 1 of group 0 on meta"):
        gradstep.AdamW([on_cpu, elsewhere], paged=True)

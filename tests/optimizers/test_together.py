"""Weights, state and step counts belong together, whoever interrupts, steps beside, forks or refuses."""

import copy
import os
import signal
import threading
import time
from contextlib import nullcontext
from dataclasses import dataclass

import pytest
import torch

import gradstep
from gradstep.optimizers.paged.files import FilePlacement
from tests.training import assert_same, give, leaked, leaves, normal, snapshot

fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")


def together(optimizer, params, lr):
    """The number of updates by the weights, by the first moment, and by the count; the gradient is 1 throughout."""
    found = set()
    for p in params:
        entry = optimizer.state[p]
        step = int(entry["step"])
        found.add(step)
        torch.testing.assert_close(entry["exp_avg"], torch.full_like(p, 1 - 0.9**step), rtol=1e-3, atol=1e-6)
        torch.testing.assert_close(p.detach(), torch.full_like(p, -lr * step), rtol=1e-3, atol=1e-6)
    assert len(found) == 1
    return found.pop()


def made(tmp_path, kind, count=30, size=2000):
    params = [torch.zeros(size, 2, requires_grad=True) for _ in range(count)]
    settings = {"resident": {}, "eager": {"engine": "eager"}, "paged": {"paged": tmp_path, "page_budget": "200kB"}}
    return gradstep.Adam(params, lr=0.01, eps=0.0, **settings[kind]), params


@pytest.mark.parametrize("number", ["SIGINT", "SIGALRM", "SIGUSR1"])
@pytest.mark.parametrize("kind", ["resident", "eager", "paged"])
def test_a_signal_at_any_moment(kind, number, tmp_path):
    """Handlers that raise are called between steps, never inside one."""
    optimizer, params = made(tmp_path, kind)
    give(params, [torch.ones_like(p) for p in params])
    optimizer.step()
    number = getattr(signal, number)

    def stop(*_):
        raise KeyboardInterrupt

    before, interrupted, steps = signal.signal(number, stop), 0, 0
    try:
        for k in range(25):
            timer = threading.Timer(0.001 + 0.0007 * k, os.kill, (os.getpid(), number))
            try:
                timer.start()
                deadline = time.monotonic() + 10
                while time.monotonic() < deadline:
                    optimizer.step()
            except KeyboardInterrupt:
                interrupted += 1
            timer.join()
            steps = together(optimizer, params, 0.01)
    finally:
        signal.signal(number, before)
    assert interrupted == 25
    assert steps > 0
    assert signal.getsignal(number) is before


@dataclass(frozen=True)
class Signals(gradstep.Rule):
    """Sends a signal to its own process in the middle of an update."""

    def slots(self, ndim):
        return (gradstep.Slot("average"),)

    def coefficients(self, step, **scalars):
        return {"rest": 0.5}

    @staticmethod
    def update(p, g, s, c):
        os.kill(os.getpid(), signal.SIGTERM)
        s.average = s.average + c.rest * g
        return p - s.average


@pytest.mark.parametrize("raises", [False, True])
def test_a_signal_is_handled_when_the_step_is_done(raises):
    params, seen = leaves([normal(3), normal(3)]), []
    optimizer = gradstep.optimizer(Signals)(params, engine="eager")

    def handle(*_):
        seen.append([int(entry["step"]) for entry in optimizer.state.values()])
        if raises:
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, handle)
    try:
        give(params, [normal(3), normal(3)])
        with pytest.raises(KeyboardInterrupt) if raises else nullcontext():
            optimizer.step()
        assert signal.getsignal(signal.SIGTERM) is handle
    finally:
        signal.signal(signal.SIGTERM, before)
    assert seen == ([[1, 1]] if raises else [[1, 1], [1, 1]])


def test_four_threads_step_one_optimizer():
    optimizer, params = made(None, "resident", count=4, size=50)
    give(params, [torch.ones_like(p) for p in params])
    threads = [threading.Thread(target=lambda: [optimizer.step() for _ in range(50)]) for _ in range(4)]
    optimizer.step()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together(optimizer, params, 0.01) == 201


def in_child(function):
    """Run a function in a forked process that exits as Python does; True if it raised nothing."""
    process = os.fork()
    if process == 0:
        code = 1
        try:
            function()
            code = 0
        finally:
            os._exit(code)
    return os.waitpid(process, 0)[1] == 0


@fork
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_process_leaves_paged_state_alone(tmp_path):
    optimizer, params = made(tmp_path, "paged", count=3)
    give(params, [torch.ones_like(p) for p in params])
    optimizer.step()
    before = snapshot(optimizer)

    def child():
        with pytest.raises(RuntimeError, match=r"of process .* copy\.deepcopy"):
            optimizer.step()
        other = copy.deepcopy(optimizer)
        theirs = other.param_groups[0]["params"]
        give(theirs, [torch.ones_like(p) for p in theirs])
        other.step()
        assert together(other, theirs, 0.01) == 2

    assert in_child(child)
    assert_same(optimizer, before)
    optimizer.step()
    assert together(optimizer, params, 0.01) == 2


@fork
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_process_leaves_the_temporary_folder():
    params = leaves([normal(5000)])
    optimizer = gradstep.AdamW(params, paged=True)
    give(params, [normal(5000)])
    optimizer.step()
    assert isinstance(optimizer._paged, FilePlacement)
    folder = optimizer._paged.folder

    def child():
        optimizer._paged = None  # let go of, as at the end of the process

    assert in_child(child)
    assert folder.is_dir()
    optimizer._paged = None
    optimizer._table = None
    assert not folder.exists()


@fork
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_process_steps_although_another_thread_was_stepping():
    optimizer, params = made(None, "resident", count=3, size=50)
    give(params, [torch.ones_like(p) for p in params])
    optimizer.step()
    with optimizer._lock:  # as if a thread were in the middle of a step, which does not exist in the child
        result = []
        thread = threading.Thread(target=lambda: result.append(in_child(optimizer.step)))
        thread.start()
        thread.join()
    assert result == [True]


class Refuses(torch.Tensor):
    """A tensor that cannot be written to, in words of its own."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func is torch.Tensor.copy_:
            raise ArithmeticError("written in stone")
        return super().__torch_function__(func, types, args, kwargs or {})


def meta():
    return torch.zeros(3, device="meta")


@pytest.mark.parametrize("settings", [{}, {"max_grad_norm": 1.0}, {"grad_scale": 2.0}], ids=str)
@pytest.mark.parametrize("count", [0, 2])
def test_a_step_that_is_refused_has_changed_nothing(count, settings):
    """The first parameter could be updated; the last cannot."""
    params = leaves([normal(3), normal(4)])
    last = normal(5).as_subclass(Refuses).requires_grad_()
    optimizer = gradstep.AdamW([*params, last])
    for t in range(count):
        give(params, [normal(3, seed=t), normal(4, seed=t)])
        optimizer.step()
    give([*params, last], [normal(3), normal(4), normal(5)])
    before = snapshot(optimizer)
    with pytest.raises(RuntimeError, match=r"parameter 2 of group 0, a Refuses of torch.float32.*written in stone"):
        optimizer.step(**settings)
    assert_same(optimizer, before)


def test_a_meta_parameter_with_clipping_moves_nothing():
    params = leaves([normal(3)])
    last = torch.nn.Parameter(meta())
    optimizer = gradstep.AdamW([*params, last])
    give([*params, last], [normal(3), meta()])
    before = params[0].detach().clone()
    with pytest.raises(RuntimeError, match="meta"):
        optimizer.step(max_grad_norm=1.0)
    assert torch.equal(params[0], before)
    assert not optimizer.state


def test_a_step_that_is_skipped_makes_no_state():
    p = torch.zeros(3, requires_grad=True)
    optimizer = gradstep.AdamW([p])
    p.grad = torch.full((3,), float("nan"))
    optimizer.step(max_grad_norm=1.0)
    assert optimizer.last_step is not None
    assert not optimizer.last_step.stepped
    assert not optimizer.state


def test_parameters_that_share_memory_are_updated_one_after_the_other():
    """As torch.optim does: two parameters in the same memory move it twice."""
    results = []
    for kind in (gradstep.SGD, torch.optim.SGD):
        base = torch.ones(200_000)
        params = [torch.nn.Parameter(base), torch.nn.Parameter(base[50_000:150_000]), torch.nn.Parameter(base[::2])]
        optimizer = kind(params, lr=0.5, weight_decay=0.1, maximize=True)
        for t in range(3):
            give(params, [normal(p.numel(), seed=t) for p in params])
            optimizer.step()
        results.append(base)
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-6)


def test_state_that_shares_memory_is_refused():
    params = leaves([normal(3), normal(3)])
    optimizer = gradstep.AdamW(params)
    give(params, [normal(3), normal(3)])
    optimizer.step()
    optimizer.state[params[1]]["exp_avg"] = optimizer.state[params[0]]["exp_avg"]
    give(params, [normal(3), normal(3)])
    before = [p.detach().clone() for p in params]
    with pytest.raises(RuntimeError, match=r"arrays of state share memory: exp_avg of parameter 0 .*clone"):
        optimizer.step()
    assert all(torch.equal(p, b) for p, b in zip(params, before, strict=True))


@pytest.mark.parametrize("way", ["vmap", "zeros", "functional"])
@pytest.mark.parametrize("count", [0, 2])
def test_gradients_without_memory_of_their_own(way, count):
    """Computed with as torch does, or refused as torch does; at the first and at a later step."""
    outcomes: list[torch.Tensor | None] = []
    for kind in (gradstep.AdamW, torch.optim.AdamW):
        p = normal(3).requires_grad_()
        optimizer = kind([p], lr=0.1)
        for t in range(count):
            p.grad = normal(3, seed=t)
            optimizer.step()
        make = {
            "vmap": lambda: leaked(normal(3, seed=9)),
            "zeros": lambda: torch._efficientzerotensor(3),
            "functional": lambda: torch._to_functional_tensor(normal(3)),
        }
        p.grad = make[way]()
        before = p.detach().clone()
        try:
            optimizer.step()
            outcomes.append(p.detach())
        except RuntimeError:  # torch's own may have begun by then
            assert kind is torch.optim.AdamW or torch.equal(p, before)
            outcomes.append(None)
    if outcomes[1] is None:
        assert outcomes[0] is None
    else:
        torch.testing.assert_close(*outcomes)

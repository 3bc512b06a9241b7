"""When records are written: together, about once a second, at once where it matters, and never lost without need."""

import gc
import math
import os
import signal
import subprocess
import sys
import weakref
from typing import Any

import pytest
import torch

import gradstep
from gradstep.monitor import JsonLines, Sink, read_run
from gradstep.monitor.outbox import INTERVAL, MOST_QUEUED

KINDS: list[Any] = [torch.optim.SGD, gradstep.SGD]
both = pytest.mark.parametrize("kind", KINDS, ids=["torch", "gradstep"])


class Clock:
    """Time that passes when it is told to."""

    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    one = Clock()
    monkeypatch.setattr("gradstep.monitor.outbox.monotonic", one)
    return one


class Training:
    """One weight, watched."""

    def __init__(self, folder, kind=gradstep.SGD, sinks=(), **options):
        self.folder = folder
        self.weight = torch.tensor([3.0, 4.0], requires_grad=True)
        self.optimizer = kind([self.weight], lr=0.1)
        self.monitor = gradstep.Monitor(self.optimizer, sinks=[JsonLines(folder), *sinks], **options)

    def step(self, gradient=1.0, loss: Any = 0.5):
        self.weight.grad = torch.full((2,), gradient)
        self.optimizer.step()
        self.monitor.log(loss=loss)

    def written(self):
        return [update.update for update in read_run(self.folder).updates]


@pytest.fixture
def training_of(tmp_path):
    """Makes a training, and closes its monitor at the end."""
    made: list[Training] = []

    def make(*args: Any, **options: Any) -> Training:
        made.append(Training(tmp_path, *args, **options))
        return made[-1]

    yield make
    for training in made:
        training.monitor.close()


@both
def test_after_a_second_all_of_it_is_there(training_of, clock, kind):
    training = training_of(kind)
    for _ in range(5):
        training.step()
        clock.now += INTERVAL / 5
        assert training.written() == []
    training.step()
    assert training.written() == [0, 1, 2, 3, 4, 5]
    training.step()
    assert training.written() == [0, 1, 2, 3, 4, 5], "the next second has begun"
    clock.now += 2 * INTERVAL
    training.step()
    clock.now += 2 * INTERVAL
    training.step()
    assert training.written() == list(range(9)), "of slow steps each is written when it is made"


def test_an_update_that_nothing_is_logged_about_is_written_with_the_next(training_of, clock):
    training = training_of()
    training.weight.grad = torch.ones(2)
    training.optimizer.step()
    clock.now += 2 * INTERVAL
    training.monitor.flush()
    assert training.written() == []
    training.optimizer.step()
    assert training.written() == [0]


@both
@pytest.mark.parametrize(
    ("gradient", "loss"), [(math.nan, 0.5), (math.inf, 0.5), (1.0, math.nan), (1.0, torch.tensor(math.inf))]
)
def test_what_is_not_finite_is_written_at_once_and_what_waited_before_it(training_of, tmp_path, kind, gradient, loss):
    training = training_of(kind)
    training.step()
    training.step(gradient, loss)
    assert training.written() == [0, 1]
    assert read_run(tmp_path).updates[1].non_finite == (0 if math.isfinite(gradient) else 2)


def test_a_skipped_update_is_written_at_once(training_of, tmp_path):
    training = training_of()
    training.step()
    training.weight.grad = torch.full((2,), math.nan)
    training.optimizer.step(max_grad_norm=1.0)
    training.monitor.log(loss=0.5)
    assert [bool(update.skipped) for update in read_run(tmp_path).updates] == [False, True]


def test_no_more_than_so_many_wait(training_of):
    training = training_of()
    for _ in range(MOST_QUEUED + 1):
        training.step()
    assert training.written() == list(range(MOST_QUEUED))


@pytest.mark.parametrize("how", ["flush", "state_dict", "close"])
def test_whoever_asks_finds_all(training_of, how):
    training = training_of()
    training.step()
    assert training.written() == []
    getattr(training.monitor, how)()
    assert training.written() == [0]


def test_an_exception_in_the_training_loses_nothing(training_of):
    training = training_of()

    def train():
        with training.monitor:
            training.step()
            training.step()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train()
    assert training.written() == [0, 1]


def test_what_waits_is_as_it_was(tmp_path):
    """A schedule moves the learning rate in place, weights and gradients go on and are freed."""
    lr = torch.tensor(0.5)
    weight = torch.tensor([3.0, 4.0], requires_grad=True)
    optimizer = gradstep.SGD([weight])
    optimizer.param_groups[0]["lr"] = lr
    with gradstep.Monitor(optimizer, sinks=[JsonLines(tmp_path)], per_parameter=True) as monitor:
        for factor in (2.0, 1.0):
            gradient = weight.grad = factor * torch.tensor([3.0, 4.0])
            gone = weakref.ref(gradient)
            optimizer.step()
            monitor.log(loss=1.0)
            lr.mul_(0.5)
            weight.grad = None
            del gradient
            assert gone() is None, "a gradient is kept for a record"
    first, second = read_run(tmp_path).updates
    assert (first.lr, first.grad_norm, first.weight_norm, first.update_norm) == (0.5, 10.0, 0.0, 5.0)
    assert (second.lr, second.grad_norm, second.weight_norm, second.update_norm) == (0.25, 5.0, 1.25, 1.25)
    assert first.parameters is not None
    assert first.parameters.grad_norm.tolist() == [10.0]


def test_what_is_logged_later_keeps_its_place(training_of, tmp_path):
    training = training_of()
    training.step()
    training.monitor.log(held_out=0.25)
    training.step()
    training.monitor.close()
    assert [update.extra for update in read_run(tmp_path).updates] == [{"held_out": 0.25}, {}]


class Failing(Sink):
    """Fails once, and keeps the rest."""

    def __init__(self):
        self.kept, self.failures = [], 1

    def open(self, header):
        del header

    def write(self, update):
        if self.failures:
            self.failures -= 1
            raise ValueError("not today")
        self.kept.append(update.update)

    def close(self):
        pass


def test_a_sink_that_fails_is_told_the_rest_later(training_of):
    sink = Failing()
    training = training_of(sinks=[sink])
    training.step()
    training.step()
    with pytest.raises(ValueError, match="not today"):
        training.monitor.flush()
    training.monitor.close()
    assert training.written() == [0, 1]
    assert sink.kept == [1]


# -- without close() ---------------------------------------------------------------------------------------------------


def test_a_monitor_that_nobody_holds_records_as_long_as_there_is_an_optimizer(tmp_path):
    training = Training(tmp_path)
    training.step()
    monitor = training.monitor
    del training.monitor
    gone = weakref.ref(monitor)
    del monitor
    gc.collect()
    assert gone() is None
    training.weight.grad = torch.ones(2)
    training.optimizer.step()
    assert training.written() == []
    gone_too = weakref.ref(training.optimizer)
    del training.optimizer
    gc.collect()
    assert gone_too() is None, "what waits keeps the optimizer in memory"
    assert training.written() == [0, 1]


SCRIPT = """
import os, signal, sys, torch, gradstep
from gradstep.monitor import JsonLines
weight = torch.tensor([3.0, 4.0], requires_grad=True)
optimizer = gradstep.SGD([weight], lr=0.1)
monitor = gradstep.Monitor(optimizer, sinks=[JsonLines(sys.argv[1])])
for number in range(3):
    weight.grad = torch.ones(2)
    optimizer.step()
    if number == 2:
        {end}
    monitor.log(loss=0.5)
    if number == 0:
        monitor.flush()
"""


@pytest.mark.parametrize(
    ("end", "code", "there"),
    [
        ("raise ZeroDivisionError", 1, [0, 1, 2]),
        ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL, [0]),
    ],
    ids=["an exception", "killed"],
)
def test_the_end_of_the_process(tmp_path, end, code, there):
    """All is written at its end; a process that is killed loses what it had not handed over."""
    script = [sys.executable, "-c", SCRIPT.format(end=end), str(tmp_path)]
    done = subprocess.run(script, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert [update.update for update in read_run(tmp_path).updates] == there


@pytest.mark.skipif(sys.platform == "win32", reason="os.fork is POSIX only")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_does_not_write_what_its_parent_will(tmp_path):
    training = Training(tmp_path)
    training.step()
    child = os.fork()
    if child == 0:
        training.monitor.flush()
        os._exit(0)
    os.waitpid(child, 0)
    training.monitor.close()
    assert training.written() == [0]

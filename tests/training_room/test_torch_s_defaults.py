"""``torch.set_default_dtype`` and ``torch.set_default_device`` change nothing about what is computed."""

from contextlib import contextmanager

import numpy as np
import pytest
import torch

import gradstep
from gradstep.lab.contenders import make_contender
from gradstep.lab.session import Lane
from gradstep.lab.specs import parse_specs
from gradstep.lab.tasks import TASKS
from gradstep.lab.tasks.digits import images
from gradstep.optimizers.checkpoint import bitsandbytes
from gradstep.rules import RULES
from tests.monitor.test_monitor import monitored
from tests.training import assert_same_bits, normal

DEFAULTS = [torch.bfloat16, torch.float16, torch.float64, "meta"]


@contextmanager
def default(value):
    """Torch's default dtype, or its default device; ``meta`` has no numbers at all."""
    try:
        if isinstance(value, torch.dtype):
            torch.set_default_dtype(value)
        else:
            torch.set_default_device(value)
        yield
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)


def with_and_without(value, compute):
    plain = compute()
    with default(value):
        return plain, compute()


def network():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = torch.nn.Linear(4, 6, dtype=torch.float32, device="cpu"), torch.nn.ReLU()
        return torch.nn.Sequential(*layers, torch.nn.Linear(6, 3, dtype=torch.float32, device="cpu"))


X, Y = normal(8, 4), normal(8, 3, seed=1)


def loss_fn(model, batch):
    x, y = batch
    return (model(x) - y).square().mean()


@pytest.mark.parametrize("value", DEFAULTS, ids=str)
@pytest.mark.parametrize("precision", ["float32", "bf16", "fp16"])
@pytest.mark.parametrize("package", [gradstep, torch.optim], ids=["gradstep", "torch"])
def test_a_stepper_with_everything(value, precision, package):
    def compute():
        model = network()
        optimizer = package.AdamW(model.parameters(), lr=0.01)
        schedule = gradstep.schedules.cosine(0.01, updates=6)
        stepper = gradstep.Stepper(
            model, optimizer, schedule=schedule, accumulate=2, max_grad_norm=0.5, precision=precision
        )
        told = []
        for i in range(12):
            with stepper.autocast():
                loss = loss_fn(model, (X[i % 4 :], Y[i % 4 :]))
            outcome = stepper.backward(loss)
            if outcome is not None:
                told.append((outcome.loss, outcome.grad_norm, outcome.clip, outcome.lr))
        return told, list(model.parameters())

    (told, ours), (told_too, theirs) = with_and_without(value, compute)
    assert len(told) == 6
    assert told == told_too
    for p, q in zip(ours, theirs, strict=True):
        assert_same_bits(p, q)


@pytest.mark.parametrize("value", DEFAULTS, ids=str)
@pytest.mark.parametrize("package", [gradstep, torch.optim], ids=["gradstep", "torch"])
def test_what_a_monitor_sees(value, package):
    def compute():
        model = network()
        optimizer = package.AdamW(model.parameters(), lr=0.01)
        monitor, memory = monitored(optimizer, per_parameter=True)
        for _ in range(3):
            loss_fn(model, (X, Y)).backward()
            optimizer.step()
            optimizer.zero_grad()
        monitor.close()
        told = []
        for u in memory.updates:
            assert u.parameters is not None
            told.append((u.grad_norm, u.weight_norm, u.update_norm, u.parameters.grad_norm.tolist()))
        return told

    plain, other = with_and_without(value, compute)
    assert len(plain) == 3
    assert plain == other


@pytest.mark.parametrize("value", [torch.bfloat16, "meta"], ids=str)
def test_a_learning_rate_found(value):
    def compute():
        model = network()
        optimizer = gradstep.AdamW(model.parameters())
        stepper = gradstep.Stepper(model, optimizer)
        found = gradstep.lr_find(stepper, loss_fn, [(X, Y)] * 4, updates=20)
        return np.array(found.sweeps[0].losses)

    np.testing.assert_array_equal(*with_and_without(value, compute))


@pytest.mark.parametrize("value", [torch.bfloat16, "meta"], ids=str)
@pytest.mark.parametrize("submission", [gradstep.AdamW, torch.optim.AdamW], ids=["gradstep", "torch"])
def test_a_verdict(value, submission):
    def compute():
        verdict = gradstep.check(submission, "adamw")
        return verdict.passed, [(p.name, p.outcome, p.detail) for p in verdict.probes]

    plain, other = with_and_without(value, compute)
    assert plain == other
    assert plain[0]


@pytest.mark.parametrize("value", [torch.bfloat16, "meta"], ids=str)
@pytest.mark.parametrize("name", ["digits", "text", "ravine"])
def test_a_race(value, name):
    def compute():
        images.cache_clear()
        task = TASKS[name]
        lane = Lane(task, make_contender(parse_specs("adamw")[0], task), 1)
        lane.turn(2)
        judged = task.evaluate(lane._model)
        return judged.loss, judged.place, [p.detach().clone() for p in lane._model.parameters()]

    try:
        plain, other = with_and_without(value, compute)
        assert plain[:2] == other[:2]
        for p, q in zip(plain[2], other[2], strict=True):
            assert torch.equal(p, q)
    finally:
        images.cache_clear()


@pytest.mark.parametrize("value", DEFAULTS, ids=str)
def test_bitsandbytes_state(value):
    def compute():
        bitsandbytes.dynamic_map.cache_clear()
        table = bitsandbytes.dynamic_map(signed=True)
        entry, _ = bitsandbytes.read_entry(RULES["AdamW"], {"step": 257, "state1": X, "state2": X})
        return table, entry["step"]

    try:
        for plain, other in zip(*with_and_without(value, compute), strict=True):
            assert (plain.dtype, plain.device) == (other.dtype, other.device)
            assert torch.equal(plain, other)
    finally:
        bitsandbytes.dynamic_map.cache_clear()

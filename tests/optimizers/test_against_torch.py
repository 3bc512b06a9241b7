"""Torch as the oracle: every option set of every optimizer of the same name, 100 steps, every engine."""

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import gradstep
from tests.frozen import lion
from tests.registry import SUBJECTS, cases
from tests.roundings import assert_within, limits
from tests.training import SHAPES, assert_near, gradients, normal, starts, trained

BY_NAME = {s.name: s for s in SUBJECTS}
STEPS = {d: gradients(100, SHAPES, d) for d in (torch.float32, torch.float64)}


@pytest.fixture(params=["fused", "eager", "foreach", "reference"])
def engine(request):
    return request.param


@cache
def expected(name, items, dtype):
    """What torch makes of it; once for all engines."""
    kind = BY_NAME[name].torch
    return trained(kind, starts(SHAPES, dtype), STEPS[dtype], **dict(items), foreach=False)


@cache
def allowed(name, items, dtype):
    """How far from it rounding alone can take another implementation."""
    return limits(BY_NAME[name].rule(**dict(items)), starts(SHAPES, dtype), STEPS[dtype])


def compare(subject, options, engines, dtype):
    items = tuple(options.items())
    theirs, targets = expected(subject.name, items, dtype)
    of_parameters, of_state = allowed(subject.name, items, dtype)
    for engine in engines:
        ours, params = trained(subject.optimizer, starts(SHAPES, dtype), STEPS[dtype], **options, engine=engine)
        for i, (p, q) in enumerate(zip(params, targets, strict=True)):
            assert_within(p, q, of_parameters[i], f"{engine}: parameter {i}")
            for key, value in theirs.state[q].items():
                if key == "step":
                    assert int(ours.state[p][key]) == int(value) == len(STEPS[dtype])
                elif value is not None:
                    what = f"{engine}: {key} of parameter {i}"
                    assert_within(ours.state[p][key], torch.as_tensor(value), of_state[key][i], what)


@pytest.mark.parametrize(("subject", "options"), cases(in_torch=True))
def test_float32(subject, options):
    fast = "fused" if subject.rule.sees == "elements" else "auto"
    compare(subject, options, (fast, "eager", "reference"), torch.float32)


@pytest.mark.parametrize(("subject", "options"), cases(in_torch=True))
def test_float64(subject, options):
    """The test of the equations: its limits are 10⁻¹⁴. The fused kernel gives the reference's bits."""
    compare(subject, options, ("reference",), torch.float64)


class LastPlace(TorchDispatchMode):
    """Moves torch's roots and quotients by a unit in the last place, up or down or not, as another processor might."""

    _ATEN = torch.ops.aten
    MOVED = frozenset({_ATEN.sqrt, _ATEN.sqrt_, _ATEN.rsqrt, _ATEN.rsqrt_, _ATEN.div, _ATEN.div_, _ATEN.addcdiv_})

    def __init__(self):
        super().__init__()
        self.random = torch.Generator().manual_seed(0)
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func.overloadpacket in self.MOVED:
            way = torch.randint(-1, 2, out.shape, generator=self.random)
            out.copy_(torch.where(way == 0, out, torch.nextafter(out, out + way * (out.abs() + 1))))
            self.count += 1
        return out


ROOTS = ("Adadelta", "RMSprop", "AdamW", "NAdam")  # every place that a root and a quotient have in a rule


@pytest.mark.parametrize(("subject", "options"), [c for c in cases(in_torch=True) if c.values[0].name in ROOTS])
def test_the_limits_hold_where_torch_rounds_otherwise(subject, options):
    items = tuple(options.items())
    of_parameters, of_state = allowed(subject.name, items, torch.float32)
    theirs, targets = expected(subject.name, items, torch.float32)
    with LastPlace() as processor:
        others, params = trained(subject.torch, starts(), STEPS[torch.float32], **options, foreach=False)
    assert processor.count >= 200
    for i, (p, q) in enumerate(zip(params, targets, strict=True)):
        assert_within(p, q, of_parameters[i], f"parameter {i}")
        for key, limit in of_state.items():
            if key in theirs.state[q]:
                assert_within(others.state[p][key], theirs.state[q][key], limit[i], f"{key} of parameter {i}")


@pytest.mark.parametrize("options", BY_NAME["Lion"].options, ids=str)
@pytest.mark.parametrize("dtype", STEPS, ids=str)
def test_lion_against_the_paper(options, engine, dtype):
    """Each step rounds the coefficient, the product and the difference: 3 halves of a unit at the largest size."""
    start = starts(SHAPES, dtype)
    _, params = trained(gradstep.Lion, start, STEPS[dtype], **options, engine=engine)
    for i, (p, first) in enumerate(zip(params, start, strict=True)):
        exact = lion(first.double().numpy(), [g[i].double().numpy() for g in STEPS[dtype]], **options)
        largest = first.abs().max().item() + len(STEPS[dtype]) * options["lr"]
        limit = len(STEPS[dtype]) * 1.5 * torch.finfo(dtype).eps * largest
        assert_within(p, torch.from_numpy(np.asarray(exact)), limit, f"parameter {i}")


TENSORS: dict[str, Any] = {
    "SGD": [
        {"lr": torch.tensor(0.05)},
        {"lr": torch.tensor(0.05), "weight_decay": torch.tensor(0.25), "momentum": 0.9},
    ],
    "Adam": [{"lr": torch.tensor(0.01), "betas": (torch.tensor(0.75), torch.tensor(0.875))}],
    "AdamW": [{"lr": torch.tensor([0.01])}],
    "Adafactor": [{"lr": torch.tensor(0.05)}],
    "NAdam": [{"lr": torch.tensor(0.01)}],
}


@pytest.mark.parametrize("name", TENSORS)
def test_settings_given_as_tensors(name):
    for options in TENSORS[name]:
        ours, params = trained(getattr(gradstep, name), starts(), STEPS[torch.float32][:20], **options)
        assert ours.param_groups[0]["lr"] is options["lr"]
        _, targets = trained(getattr(torch.optim, name), starts(), STEPS[torch.float32][:20], **options, foreach=False)
        for p, q in zip(params, targets, strict=True):
            assert_near(p, q, ulps=8)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(("subject", "options"), cases(in_torch=True)[::4])
def test_half_precision_follows_float32(subject, options, dtype):
    """Torch does its arithmetic in the half type; ours is float32 rounded once, so float32 is the oracle."""
    start, steps = starts([(33,), (3, 5)], dtype), gradients(1, [(33,), (3, 5)], dtype)
    _, params = trained(subject.optimizer, start, steps, **options)
    wide = [[g.float() for g in grads] for grads in steps]
    _, targets = trained(subject.torch, [t.float() for t in start], wide, **options, foreach=False)
    for p, q in zip(params, targets, strict=True):
        assert p.dtype == dtype
        # One rounding of the right number: at most half a unit off, and a hair for float32's own rounding.
        assert ((p.float() - q).abs() <= 0.51 * torch.finfo(dtype).eps * q.abs() + 1e-7).all()


def test_state_of_half_precision_is_float32():
    """In bfloat16 0.999 is 1.0, and a second moment would never forget."""
    optimizer, [p] = trained(gradstep.AdamW, [normal(8, dtype=torch.bfloat16)], [[normal(8, dtype=torch.bfloat16)]])
    assert optimizer.state[p]["exp_avg_sq"].dtype == torch.float32

"""``step(max_grad_norm=, grad_scale=)`` against unscaling, ``clip_grad_norm_`` and a plain step."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import gradstep
from tests.training import assert_near, assert_same, assert_same_bits, give, leaves, normal, starts, trained, unchanged

SHAPES = [(7,), (3, 5), (), (0,), (40,)]
ENGINES = ("fused", "eager", "foreach", "reference")


def grads(scale=1.0):
    return [normal(*s, seed=50 + i) * scale for i, s in enumerate(SHAPES)]


def norm_of(tensors):
    return math.sqrt(sum(float(t.double().abs().square().sum()) for t in tensors))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("scale", [1.0, 1024.0, torch.tensor(3.0)], ids=str)
@pytest.mark.parametrize("bound", [0.5, 1e6, None], ids=str)
def test_against_the_three_passes(engine, scale, bound):
    params: Any = leaves(starts(SHAPES))
    optimizer: Any = gradstep.SGD(params, lr=1.0, engine=engine)
    give(params, [g * scale for g in grads()])
    kept = [p.grad.clone() for p in params]
    optimizer.step(max_grad_norm=bound, grad_scale=scale)

    targets = leaves(starts(SHAPES))
    give(targets, [k / scale for k in kept])
    if bound is not None:
        torch.nn.utils.clip_grad_norm_(targets, bound)
    torch.optim.SGD(targets, lr=1.0).step()
    for p, q, k in zip(params, targets, kept, strict=True):
        assert_near(p, q, ulps=4)
        assert_same_bits(p.grad, k, "the gradient")
    report = optimizer.last_step
    assert report.stepped
    if bound is not None or float(scale) != 1.0:
        assert report.grad_norm == pytest.approx(norm_of(grads()), rel=1e-6)
    expected = 1.0 if bound is None else min(1.0, bound / (norm_of(grads()) + 1e-6))
    assert report.clip == pytest.approx(expected, rel=1e-6)


def test_a_norm_below_the_bound_changes_no_bit():
    plain, _ = trained(gradstep.AdamW, starts(SHAPES), [grads()])
    params: Any = leaves(starts(SHAPES))
    optimizer: Any = gradstep.AdamW(params)
    give(params, grads())
    optimizer.step(max_grad_norm=1e6)
    assert_same(optimizer, plain)


def test_the_norm_is_of_all_groups_together():
    a, b = torch.zeros(1, requires_grad=True), torch.zeros(1, requires_grad=True)
    groups: Any = [{"params": [a]}, {"params": [b], "lr": 2.0}]
    optimizer: Any = gradstep.SGD(groups, lr=1.0)
    give([a, b], [torch.tensor([3.0]), torch.tensor([4.0])])
    optimizer.step(max_grad_norm=1.0)
    assert optimizer.last_step.grad_norm == 5.0
    torch.testing.assert_close(torch.cat([a, b]).detach(), torch.tensor([-0.6, -1.6]))  # 3/5, 2·4/5


def test_the_norm_is_of_every_engine_and_type_together():
    params = [
        torch.zeros(1),
        torch.zeros(2, 2)[:, :1],
        torch.zeros(1).double(),
        torch.zeros(1) + 0j,
        torch.zeros(1).half(),
    ]
    params = [p.requires_grad_() for p in params]
    optimizer: Any = gradstep.SGD(params, lr=1.0)
    for p in params:
        p.grad = torch.full_like(p, 2.0)
    optimizer.step(max_grad_norm=1.0)
    assert optimizer.last_step.grad_norm == pytest.approx(math.sqrt(6 * 4))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
def test_not_finite_skips_the_step_and_names_the_parameter(engine, bad):
    model: Any = torch.nn.Sequential(torch.nn.Linear(4, 40), torch.nn.Linear(40, 2))
    optimizer: Any = gradstep.AdamW(model.named_parameters(), engine=engine)
    model(normal(3, 4)).sum().backward()
    optimizer.step()
    model[1].weight.grad[1, 39] = bad
    with unchanged(optimizer):
        optimizer.step(max_grad_norm=1.0)
    report = optimizer.last_step
    assert not report.stepped
    assert report.reason == "the gradient of 1.weight is not finite"
    assert not math.isfinite(report.grad_norm)
    model[1].weight.grad[1, 39] = 0.0
    optimizer.step(max_grad_norm=1.0)
    assert optimizer.last_step.stepped
    assert int(optimizer.state[model[1].weight]["step"]) == 2


def test_not_finite_at_the_first_step_leaves_nothing_that_counts():
    p = normal(3).requires_grad_()
    optimizer: Any = gradstep.AdamW([p])
    give([p], [torch.tensor([1.0, math.inf, 1.0])])
    with unchanged(optimizer):
        optimizer.step(max_grad_norm=1.0)
    assert float(optimizer.state.get(p, {}).get("step", 0)) == 0


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("size", [1e200, 1e-200])
def test_float64_whose_squares_leave_the_range(engine, size):
    p = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    optimizer: Any = gradstep.SGD([p], lr=1.0, engine=engine)
    p.grad = torch.tensor([3.0, 4.0], dtype=torch.float64) * size
    optimizer.step(max_grad_norm=1.0)
    assert optimizer.last_step.stepped
    if size > 1:
        assert optimizer.last_step.grad_norm == pytest.approx(5 * size, rel=1e-12)
        torch.testing.assert_close(p.detach(), torch.tensor([-0.6, -0.8], dtype=torch.float64))
    else:
        assert torch.equal(p.detach(), -p.grad)


@pytest.mark.parametrize("engine", ENGINES)
def test_float32_whose_squares_leave_the_range_of_float32(engine):
    p = torch.zeros(2, requires_grad=True)
    optimizer: Any = gradstep.SGD([p], lr=1.0, engine=engine)
    p.grad = torch.tensor([3e30, 4e30])
    optimizer.step(max_grad_norm=1.0)
    assert optimizer.last_step.grad_norm == pytest.approx(5e30, rel=1e-6)
    torch.testing.assert_close(p.detach(), torch.tensor([-0.6, -0.8]))


@given(
    sizes=st.lists(st.integers(0, 50), min_size=1, max_size=6),
    exponent=st.integers(-12, 12),
    bound=st.floats(1e-3, 1e3),
)
def test_any_sizes(sizes, exponent, bound):
    params: Any = [torch.zeros(n, requires_grad=True) for n in sizes]
    gs = [normal(n, seed=i) * 10.0**exponent for i, n in enumerate(sizes)]
    give(params, gs)
    optimizer: Any = gradstep.SGD(params, lr=1.0)
    optimizer.step(max_grad_norm=bound)
    norm = norm_of(gs)
    assert optimizer.last_step.grad_norm == pytest.approx(norm, rel=1e-9)
    assert norm_of([p.detach() for p in params]) == pytest.approx(min(norm, bound * norm / (norm + 1e-6)), rel=1e-5)


def test_no_gradient_at_all():
    p = normal(3).requires_grad_()
    optimizer: Any = gradstep.AdamW([p])
    optimizer.step(max_grad_norm=1.0)
    report = optimizer.last_step
    assert (report.stepped, report.grad_norm, report.clip, report.reason) == (True, 0.0, 1.0, "")


def test_maximize_and_clip():
    p = torch.zeros(2, requires_grad=True)
    give([p], [torch.tensor([3.0, 4.0])])
    gradstep.SGD([p], lr=1.0, maximize=True).step(max_grad_norm=1.0, grad_scale=2.0)
    torch.testing.assert_close(p.detach(), torch.tensor([0.6, 0.8]))


@pytest.mark.parametrize("name", ["max_grad_norm", "grad_scale"])
@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_bad_arguments(name, value):
    p = normal(3).requires_grad_()
    optimizer: Any = gradstep.AdamW([p])
    give([p], [normal(3)])
    with unchanged(optimizer), pytest.raises(ValueError, match=f"Invalid {name}: {value}"):
        optimizer.step(**{name: value})


@pytest.mark.parametrize("name", ["max_grad_norm", "grad_scale"])
@pytest.mark.parametrize("value", ["1", b"1", True, object(), [1.0]])
def test_what_is_no_number_is_refused(name, value):
    w = torch.ones(3, requires_grad=True)
    w.grad = torch.ones(3)
    optimizer = gradstep.AdamW([w])
    with unchanged(optimizer), pytest.raises(TypeError, match=f"{name} must be a number, but is "):
        optimizer.step(**{name: value})

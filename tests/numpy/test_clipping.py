"""Clipping and the cosine schedule."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import gradstep.numpy as gn


def holders(*gradients, dtype=np.float32):
    return [gn.Parameter(np.zeros(np.shape(g), dtype), None if g is None else np.array(g, dtype)) for g in gradients]


def test_by_hand():
    params = holders([3.0, 4.0], None, [[12.0]], dtype=np.float64)
    assert gn.clip_grad_norm(params, max_norm=6.5) == 13.0
    np.testing.assert_array_equal(params[0].grad, [1.5, 2])
    np.testing.assert_array_equal(params[2].grad, [[6]])
    assert params[1].grad is None


def test_short_gradients_stay():
    params = holders([3.0, 4.0])
    kept = params[0].grad
    for most in (5.0, math.inf):
        assert gn.clip_grad_norm(params, most) == 5.0
        assert params[0].grad is kept
    assert gn.clip_grad_norm(params, 4.0) == 5.0
    np.testing.assert_array_equal(kept, [3, 4])  # replaced, not changed
    assert gn.clip_grad_norm([]) == gn.clip_grad_norm(holders(None)) == 0.0


def test_gradient_with_data():
    p = gn.Parameter(np.zeros(2), grad=gn.Tensor([30.0, 40.0]))
    held = p.grad
    assert gn.clip_grad_norm(iter([p]), 5.0) == 50.0
    assert p.grad is held
    np.testing.assert_allclose(held.data, [3, 4], rtol=1e-6)


@pytest.mark.parametrize(("dtype", "size"), [(np.float32, 1e38), (np.float64, 1e300), (np.float64, 1e-300)])
def test_extreme_sizes(dtype, size):
    params = holders(np.full(10_000, size), np.full(10_000, size), dtype=dtype)
    norm = gn.clip_grad_norm(params, max_norm=size)
    assert norm == pytest.approx(size * math.sqrt(20_000), rel=1e-6)
    for p in params:
        assert p.grad.dtype == dtype
        np.testing.assert_allclose(p.grad / size, 1 / math.sqrt(20_000), rtol=1e-6)


def test_many_float32_are_summed_in_float64():
    params = holders(np.full(3_000_000, 0.1))
    assert gn.clip_grad_norm(params, math.inf) == pytest.approx(float(np.float32(0.1)) * math.sqrt(3e6), rel=1e-9)


def test_factor_below_float32():
    """1e-3 / 3e40 is no float32; the product with 3e38 is."""
    params = holders(np.full(10_000, 3e38))
    gn.clip_grad_norm(params, max_norm=1e-3)
    np.testing.assert_allclose(params[0].grad, 1e-5, rtol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_norm_that_is_not_finite_changes_nothing(bad):
    params = holders([1.0, bad], [5.0])
    norm = gn.clip_grad_norm(params, 1.0)
    assert math.isnan(norm) if math.isnan(bad) else norm == math.inf
    np.testing.assert_array_equal(params[1].grad, [5])


PLAIN = st.integers(-(10**9), 10**9).map(lambda n: n / 1000)  # np.linalg.norm squares: no extremes for this oracle


@given(st.lists(st.lists(PLAIN, max_size=5), max_size=4), PLAIN.map(abs))
def test_against_numpy(gradients, most):
    params = holders(*gradients, dtype=np.float64)
    flat = np.concatenate([np.zeros(0), *gradients])
    norm = gn.clip_grad_norm(params, most)
    assert norm == pytest.approx(float(np.linalg.norm(flat)), rel=1e-12)
    after = np.concatenate([np.zeros(0), *(p.grad for p in params)])
    assert np.linalg.norm(after) <= min(norm, most) * (1 + 1e-12)
    if norm > most:
        np.testing.assert_allclose(after * norm, flat * most, rtol=1e-12)


@pytest.mark.parametrize("most", [-1.0, math.nan])
def test_bad_limit(most):
    params = holders([3.0])
    with pytest.raises(ValueError, match="max_norm must be at least 0"):
        gn.clip_grad_norm(params, most)


def test_cosine():
    schedule = gn.CosineSchedule()
    assert [schedule.get_lr(epoch) for epoch in (0, 100, 1000)] == [0.1, 0.01, 0.01]
    assert schedule.get_lr(50) == pytest.approx(0.055)
    assert schedule.get_lr(25) == pytest.approx(0.01 + 0.09 * (1 + math.sqrt(0.5)) / 2)
    schedule.total_epochs = 50  # as the teaching framework's trainer does when it loads a checkpoint
    assert schedule.get_lr(50) == 0.01
    optimizer = gn.SGD(holders(None))
    optimizer.lr = schedule.get_lr(0)
    assert optimizer.lr == 0.1


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"max_lr": 0.001}, ValueError),
        ({"max_lr": math.nan}, ValueError),
        ({"min_lr": -0.1}, ValueError),
        ({"total_epochs": -1}, ValueError),
        ({"total_epochs": 2.5}, TypeError),
    ],
)
def test_bad_schedule(settings, error):
    with pytest.raises(error):
        gn.CosineSchedule(**settings)
    with pytest.raises(ValueError, match="Invalid update: -1"):
        gn.CosineSchedule().get_lr(-1)

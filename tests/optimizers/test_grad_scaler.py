"""torch.amp.GradScaler with our optimizers and with torch's."""

import pytest
import torch

import gradstep
from tests.training import assert_near, assert_same, assert_same_bits, normal, snapshot

SCALE = 1024.0


def setting(kind=gradstep.AdamW, **options):
    p = normal(20).requires_grad_()
    return kind([p], lr=0.1, **options), p, torch.amp.GradScaler("cpu", init_scale=SCALE, growth_interval=2)


def backward(scaler, p, t, factor=1.0):
    p.grad = None
    scaler.scale((p * normal(20, seed=t)).sum() * factor).backward()


def test_against_torch_with_an_overflow_in_the_middle():
    results = []
    for kind in (gradstep.AdamW, torch.optim.AdamW):
        optimizer, p, scaler = setting(kind)
        for t, factor in enumerate([1.0, 1.0, float("inf"), 1.0, float("nan"), 1.0]):
            backward(scaler, p, t, factor)
            scaler.step(optimizer)
            scaler.update()
        results.append((p, scaler.get_scale(), float(optimizer.state[p]["step"])))
    assert_near(results[0][0], results[1][0], ulps=8)
    assert results[0][1:] == results[1][1:] == (SCALE * 2 / 4, 4.0)


@pytest.mark.parametrize("unscale", [False, True])
def test_scaled_is_as_unscaled(unscale):
    """A scale that is a power of two changes no bit."""
    optimizer, p, scaler = setting()
    plain, q, _ = setting()
    for t in range(3):
        backward(scaler, p, t)
        if unscale:
            scaler.unscale_(optimizer)
        kept = p.grad.clone()
        scaler.step(optimizer)
        scaler.update()
        assert_same_bits(p.grad, kept, "the gradient")
        q.grad = normal(20, seed=t)
        plain.step()
    assert_same(optimizer, plain)


@pytest.mark.parametrize("unscale", [False, True])
@pytest.mark.parametrize("factor", [float("inf"), float("nan")])
def test_overflow_skips_and_does_not_count(unscale, factor):
    optimizer, p, scaler = setting()
    backward(scaler, p, 0)
    scaler.step(optimizer)
    scaler.update()
    before = snapshot(optimizer)
    backward(scaler, p, 1, factor)
    if unscale:
        scaler.unscale_(optimizer)
    scaler.step(optimizer)
    scaler.update()
    assert_same(optimizer, before)
    assert not optimizer.last_step.stepped
    assert scaler.get_scale() == SCALE / 2


def test_the_scale_of_one_step_is_forgotten():
    optimizer, p, scaler = setting()
    backward(scaler, p, 0)
    scaler.step(optimizer)
    assert (optimizer.grad_scale, optimizer.found_inf) == (1.0, 0.0)
    plain, q, _ = setting()
    q.grad = normal(20)
    plain.step()
    p.grad, q.grad = normal(20, seed=1), normal(20, seed=1)
    optimizer.step()
    plain.step()
    assert_same(optimizer, plain)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf"), torch.tensor(float("nan"))])
def test_a_scale_that_cannot_be_one_is_refused_and_changes_nothing(scale):
    optimizer, p, _ = setting()
    p.grad, before = normal(20), p.detach().clone()
    optimizer.grad_scale = scale
    with pytest.raises(ValueError, match=r"Invalid grad_scale: .* \(must be finite and greater than 0\)"):
        optimizer.step()
    assert_same_bits(p.detach(), before)
    assert optimizer.state == {}


@pytest.mark.parametrize("unscale", [False, True])
def test_with_clipping_in_the_same_step(unscale):
    optimizer, p, scaler = setting()
    backward(scaler, p, 0)
    if unscale:
        scaler.unscale_(optimizer)
    scaler.step(optimizer, max_grad_norm=0.5)
    assert optimizer.last_step.grad_norm == pytest.approx(float(normal(20).norm()), rel=1e-6)

    theirs, q, scaler = setting(torch.optim.AdamW)
    backward(scaler, q, 0)
    scaler.unscale_(theirs)
    torch.nn.utils.clip_grad_norm_([q], 0.5)
    scaler.step(theirs)
    assert_near(p, q, ulps=4)


def test_a_disabled_scaler():
    optimizer, p, _ = setting()
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    plain, q, _ = setting()
    backward(scaler, p, 0)
    scaler.step(optimizer)
    q.grad = normal(20)
    plain.step()
    assert_same(optimizer, plain)

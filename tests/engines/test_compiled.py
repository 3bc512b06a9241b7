"""The eager rule under torch.compile. The proof is slow: torch's compiler takes seconds for each rule."""

import functools

import pytest
import torch

import gradstep
from gradstep.engines import compiled
from tests.training import assert_near, gradients, starts, trained

SHAPES = [(7,), (3, 5)]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_against_the_reference():
    steps, options = gradients(4, SHAPES), {"lr": 0.1, "amsgrad": True}
    optimizer, params = trained(gradstep.AdamW, starts(SHAPES), steps, **options, engine="compiled")
    assert {engine for _, engine, _ in optimizer.engines()} == {"compiled"}
    _, targets = trained(gradstep.AdamW, starts(SHAPES), steps, **options, engine="reference")
    for p, q in zip(params, targets, strict=True):
        assert_near(p, q, ulps=4)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_the_update_is_traced_whole(monkeypatch):
    """Without generated code, which takes most of the time; the proof above compiles it."""
    compiled._compiled.cache_clear()
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    try:
        p = torch.linspace(-1, 1, 100).requires_grad_()
        q = p.detach().clone().requires_grad_()
        ours, eager = gradstep.AdamW([p], engine="compiled"), gradstep.AdamW([q], engine="eager")
        for _ in range(2):
            p.grad, q.grad = p.detach().sin(), q.detach().sin()
            ours.step()
            eager.step()
        torch.testing.assert_close(p, q)
    finally:
        compiled._compiled.cache_clear()


def test_what_it_refuses():
    with pytest.raises(ValueError, match=r"Adafactor looks at whole tensors.*compiled again for every shape"):
        gradstep.Adafactor([t.requires_grad_() for t in starts([(3, 3)])], engine="compiled")

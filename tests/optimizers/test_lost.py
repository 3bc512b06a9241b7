"""Updates that rounding to nearest loses are counted, and said when they are many."""

import warnings

import pytest
import torch

import gradstep


def trained(lr: float, steps: int = 10, **options):
    p = torch.ones(8, 8, dtype=torch.bfloat16, requires_grad=True)
    optimizer = gradstep.AdamW([("blocks.0.weight", p)], lr=lr, weight_decay=0.0, **options)
    for _ in range(steps):
        p.grad = torch.ones_like(p)
        optimizer.step()
    return optimizer, p


def test_updates_of_a_thousandth_are_lost_and_said():
    with pytest.warns(
        UserWarning, match=r"100% of the bfloat16 weights .*most of all in blocks\.0\.weight.*stochastic"
    ):
        _, p = trained(lr=1e-3)
    assert (p == 1).all()


@pytest.mark.parametrize("rounding", ["stochastic", "24bit", "kahan", "master"])
def test_nothing_is_said_where_nothing_is_lost(rounding):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trained(lr=1e-3, rounding=rounding)
        trained(lr=1e-2)


def test_the_share_is_there_for_whoever_asks():
    optimizer, p = trained(lr=1e-3, steps=4)
    optimizer.watch = "parameters"
    optimizer.step()
    found = optimizer.last_step.statistics
    assert found.unmoved.tolist() == [64]
    assert found.elements.tolist() == [p.numel()]


def test_half_of_the_weights_must_be_lost_before_it_is_said():
    p = torch.full((64,), 1.0, dtype=torch.bfloat16)
    p[:33] = 2**-9  # moves by a thousandth easily
    p.requires_grad_()
    optimizer = gradstep.AdamW([p], lr=1e-3, weight_decay=0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(10):
            p.grad = torch.ones_like(p)
            optimizer.step()

"""The eager rule under torch.compile. Slow: torch's compiler takes seconds for each rule."""

import pytest

import gradstep
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


def test_what_it_refuses():
    with pytest.raises(ValueError, match=r"Adafactor looks at whole tensors.*compiled again for every shape"):
        gradstep.Adafactor([t.requires_grad_() for t in starts([(3, 3)])], engine="compiled")

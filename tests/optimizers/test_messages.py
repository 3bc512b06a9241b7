"""What is said to a user whose day is bad: the kind of error, and words that help."""

import pytest
import torch

import gradstep
from tests.training import give, unchanged


def optimizer_with_gradient():
    p = torch.ones(3, requires_grad=True)
    give([p], [torch.ones(3)])
    return gradstep.AdamW([p]), p


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"max_grad_norm": "x"}, TypeError, "max_grad_norm must be a number"),
        ({"max_grad_norm": float("nan")}, ValueError, "must be finite"),
        ({"max_grad_norm": 0}, ValueError, "greater than 0"),
        ({"grad_scale": -1.0}, ValueError, "Invalid grad_scale: -1.0"),
    ],
)
def test_options_of_a_step(options, error, words):
    optimizer, _ = optimizer_with_gradient()
    with unchanged(optimizer), pytest.raises(error, match=words):
        optimizer.step(**options)


def test_a_number_in_place_of_a_slot():
    optimizer, p = optimizer_with_gradient()
    optimizer.step()
    optimizer.state[p]["exp_avg"] = 0.5
    before = p.detach().clone()
    with pytest.raises(
        TypeError, match=r"parameter 0 of group 0 does not fit: exp_avg is 0.5, but must be a tensor of shape \(3,\)"
    ):
        optimizer.step()
    assert torch.equal(p.detach(), before)


def test_something_that_is_no_checkpoint():
    optimizer, _ = optimizer_with_gradient()
    with unchanged(optimizer), pytest.raises(KeyError, match="not the state_dict"):
        optimizer.load_state_dict({"model": 1})

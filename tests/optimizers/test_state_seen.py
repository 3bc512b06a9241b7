"""State that nobody has seen is not looked at again; state that somebody has is."""

import copy
import pickle

import pytest
import torch

import gradstep
from tests.training import assert_same_bits, give, normal

SHAPES = [(5, 3), (70,), ()]


def trained(steps, *, look, kind=gradstep.AdamW):
    torch.manual_seed(0)
    params = [torch.randn(s).requires_grad_() for s in SHAPES]
    optimizer = kind(params)
    for _ in range(steps):
        give(params, [torch.randn(s) for s in SHAPES])
        if look:
            assert optimizer.state is not None
        optimizer.step()
    return optimizer, params


def test_looking_changes_nothing():
    for p, q in zip(trained(5, look=False)[1], trained(5, look=True)[1], strict=True):
        assert_same_bits(p.detach(), q.detach())


@pytest.mark.parametrize("early", [False, True])
def test_state_changed_after_it_was_seen(early):
    """Seen before the first step or after many: a slot put in place of another is used from then on."""
    optimizer, params = trained(0 if early else 3, look=early)
    if early:
        optimizer, params = trained(3, look=True)
    fresh = torch.full_like(params[0], 7.0)
    optimizer.state[params[0]]["exp_avg"] = fresh
    give(params, [torch.zeros(s) for s in SHAPES])
    optimizer.step()
    torch.testing.assert_close(fresh, torch.full_like(fresh, 0.9 * 7.0))


def test_a_state_dict_is_not_the_state():
    """What a checkpoint's dictionaries are made into does not change the optimizer, and no memory is lost."""
    optimizer, params = trained(2, look=False)
    twin, others = trained(2, look=False)
    saved = optimizer.state_dict()["state"]
    for entry in saved.values():
        entry["exp_avg"].data = torch.zeros(1000)  # its old memory must live on
        entry.clear()
    torch.manual_seed(1)
    gradients = [torch.randn(s) for s in SHAPES]
    for optim, group in ((optimizer, params), (twin, others)):
        give(group, gradients)
        optim.step()
    for p, q in zip(params, others, strict=True):
        assert_same_bits(p.detach(), q.detach())


def test_parameters_are_always_looked_at():
    optimizer, params = trained(2, look=False)
    params[1].data = torch.ones(70)
    give(params, [torch.zeros(s) for s in SHAPES])
    before = [p.detach().clone() for p in params]
    optimizer.step()
    assert not torch.equal(params[1].detach(), before[1])


@pytest.mark.parametrize("again", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))])
def test_a_copy_goes_on_alone(again):
    optimizer, params = trained(2, look=False)
    clone = again(optimizer)
    theirs = clone.param_groups[0]["params"]
    give(params, [normal(*s) for s in SHAPES])
    give(theirs, [p.grad.clone() for p in params])
    clone.step()
    optimizer.step()
    for p, q in zip(params, theirs, strict=True):
        assert_same_bits(p.detach(), q.detach())

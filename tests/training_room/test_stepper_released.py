"""A stepper that releases gradients: the bits of one that does not, and errors for what needs all gradients at once."""

import copy
import math

import pytest
import torch
from torch import nn

import gradstep


def make(released, rule="AdamW", **settings):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 300), nn.ReLU(), nn.Linear(300, 4))
    optimizer = getattr(gradstep, rule)(model.named_parameters(), lr=1e-2, **settings)
    schedule = gradstep.schedules.linear(1e-2, updates=10, end=0.0)
    return model, gradstep.Stepper(model, optimizer, schedule=schedule, release_gradients=released)


def update(model, stepper, seed, scale=1.0):
    x = torch.randn(8, 6, generator=torch.Generator().manual_seed(seed))
    with stepper.autocast():
        loss = (scale * model(x)).square().mean()
    return stepper.backward(loss, weight=len(x))


def weights(model):
    return [p.detach().clone() for p in model.parameters()]


def same(ours, theirs):
    return all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("settings", [{}, {"state": "8bit"}, {"engine": "eager"}, {"rule": "Adafactor"}])
def test_weights_and_outcomes_are_those_without_release(settings):
    results = []
    for released in (False, True):
        model, stepper = make(released, **settings)
        outcomes = [update(model, stepper, seed) for seed in range(5)]
        assert all(p.grad is None for p in model.parameters())
        results.append((weights(model), outcomes))
    (plain, expected), (ours, outcomes) = results
    assert same(ours, plain)
    for ours_, theirs in zip(outcomes, expected, strict=True):
        assert ours_.grad_norm == pytest.approx(theirs.grad_norm, rel=1e-6)  # a square root per parameter, in float32
        assert (ours_.loss, ours_.lr, ours_.weight, ours_.update) == (theirs.loss, theirs.lr, 8, theirs.update)


def test_a_gradient_is_gone_when_the_next_one_is_computed():
    model, stepper = make(True)
    present = []
    model[0].weight.register_hook(lambda _: present.append([p.grad is not None for p in model.parameters()]))
    update(model, stepper, 0)
    assert present == [[False] * 4]


def test_a_loss_that_is_not_finite_skips_the_update():
    model, stepper = make(True)
    update(model, stepper, 0)
    before, state = weights(model), copy.deepcopy(stepper.optimizer.state_dict())
    outcome = update(model, stepper, 1, scale=math.inf)
    assert str(outcome) == "update 1 skipped: the loss is not finite"
    assert same(weights(model), before)
    assert stepper.updates == 1
    torch.testing.assert_close(stepper.optimizer.state_dict()["state"], state["state"], rtol=0, atol=0)
    assert update(model, stepper, 1).update == 1


def test_a_parameter_whose_gradient_is_not_finite_keeps_its_weights():
    model, stepper = make(True)
    before = weights(model)
    model[0].bias.register_hook(lambda g: g * math.nan)
    outcome = update(model, stepper, 0)
    assert outcome.stepped
    assert outcome.parameter == "0.bias"
    assert str(outcome).endswith("; the gradient of 0.bias is not finite, so it kept its weights")
    assert math.isnan(outcome.grad_norm)
    changed = [not torch.equal(a, b) for a, b in zip(weights(model), before, strict=True)]
    assert changed == [True, False, True, True]


def test_an_update_without_one_finite_gradient_is_skipped():
    model, stepper = make(True)
    for p in model.parameters():
        p.register_hook(lambda g: g * math.nan)
    outcome = update(model, stepper, 0)
    assert not outcome.stepped
    assert outcome.parameter == "0.weight"
    assert stepper.updates == 0


def test_a_backward_pass_that_raises_is_discarded():
    model, stepper = make(True)

    def fail(_):
        raise OSError("the disk is full")

    handle = model[0].weight.register_hook(fail)
    with pytest.raises(OSError, match="disk"):
        update(model, stepper, 0)
    with pytest.raises(RuntimeError, match="in the middle of a window"):
        stepper.state_dict()
    with pytest.raises(RuntimeError, match=r"call stepper\.discard"):
        update(model, stepper, 1)
    handle.remove()
    stepper.discard()
    assert update(model, stepper, 1).stepped


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"accumulate": 2}, "accumulate=2"),
        ({"max_grad_norm": 1.0}, r"max_grad_norm=1\.0"),
        ({"precision": "float16"}, "precision='float16'"),
    ],
)
def test_what_needs_all_gradients_is_refused(settings, words):
    model = nn.Linear(2, 1)
    optimizer = gradstep.AdamW(model.named_parameters())
    with pytest.raises(ValueError, match=words):
        gradstep.Stepper(model, optimizer, release_gradients=True, **settings)
    assert gradstep.GradientRelease.of(optimizer) is None


def test_other_optimizers_are_refused():
    model = nn.Linear(2, 1)
    with pytest.raises(TypeError, match="not for SGD"):
        gradstep.Stepper(model, torch.optim.SGD(model.parameters(), lr=0.1), release_gradients=True)
    both = [gradstep.SGD([p], lr=0.1) for p in model.parameters()]
    with pytest.raises(ValueError, match="2 optimizers"):
        gradstep.Stepper(model, both, release_gradients=True)


def test_a_stepper_can_be_made_anew_and_the_old_one_says_so():
    model, stepper = make(True)
    again = gradstep.Stepper(model, stepper.optimizer, release_gradients=True)
    with pytest.raises(RuntimeError, match="make the stepper anew"):
        update(model, stepper, 0)
    stepper.discard()
    assert update(model, again, 0).stepped


def test_groups_can_be_added():
    torch.manual_seed(0)
    body, head = nn.Linear(6, 6), nn.Linear(6, 4)
    whole = nn.Sequential(body, head)
    optimizer = gradstep.AdamW(head.named_parameters(), lr=1e-2)
    stepper = gradstep.Stepper(whole, optimizer, release_gradients=True)
    body.requires_grad_(False)
    assert update(whole, stepper, 0).stepped
    body.requires_grad_(True)
    optimizer.add_param_group({"params": list(body.named_parameters())})
    before = weights(body)
    assert update(whole, stepper, 1).stepped
    assert not same(weights(body), before)
    assert all(p.grad is None for p in whole.parameters())


def test_a_checkpoint_continues_bit_for_bit():
    model, stepper = make(True, state="8bit")
    for seed in range(3):
        update(model, stepper, seed)
    saved, values = copy.deepcopy(stepper.state_dict()), copy.deepcopy(model.state_dict())
    update(model, stepper, 3)
    other, its = make(True, state="8bit")
    other.load_state_dict(values)
    its.load_state_dict(saved)
    update(other, its, 3)
    assert same(weights(other), weights(model))


def test_the_learning_rate_finder_restores():
    model, stepper = make(True)
    before = weights(model)
    data = [torch.randn(8, 6) for _ in range(4)]
    gradstep.lr_find(stepper, lambda model, x: model(x).square().mean(), data, updates=20)
    assert same(weights(model), before)
    assert update(model, stepper, 0).update == 0

"""The update window against one large batch, and against numbers worked by hand."""

from contextlib import contextmanager
from copy import deepcopy
from dataclasses import fields
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import gradstep
from gradstep.schedules import constant
from tests.trainers import WRAPPERS, like_lightning
from tests.training import assert_same, normal, snapshot

KINDS = [torch.optim.AdamW, gradstep.AdamW]


def network(dtype=torch.float64):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1)).to(dtype)


def loss_of(model, x):
    return (model(x) - x.sum(1, keepdim=True).sin()).square().mean()


def fed(stepper, model, batches):
    """Give the stepper these micro-batches, each weighed by its size; the last outcome."""
    outcome = None
    for x in batches:
        with stepper.autocast():
            loss = loss_of(model, x)
        outcome = stepper.backward(loss, weight=len(x))
    return outcome


def one_weight(value=(0.0, 0.0), **options):
    """A stepper over one vector, SGD with lr 1."""
    model: Any = nn.Module()
    model.w = nn.Parameter(torch.tensor(value))
    return model, gradstep.Stepper(model, torch.optim.SGD(model.parameters(), lr=1.0), **options)


def push(stepper, model, gradient, weight=1.0, **options):
    """A micro-batch whose gradient is this."""
    with stepper.autocast(**options):
        loss = (model.w * torch.as_tensor(gradient)).sum()
    return stepper.backward(loss, weight)


# -- K unequal micro-batches are one batch -------------------------------------------------------------------------


@settings(max_examples=25)
@given(
    windows=st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=4), min_size=1, max_size=3),
    clip=st.sampled_from([None, 0.05]),
    kind=st.sampled_from([torch.optim.SGD, *KINDS]),
)
def test_unequal_micro_batches_equal_one_batch(windows, clip, kind):
    """Windows of up to 4 micro-batches of 1 to 9 items; the short ones are finished."""
    model, whole = network(), network()
    make: Any = kind
    stepper = gradstep.Stepper(model, make(model.parameters(), lr=0.1), accumulate=4, max_grad_norm=clip)
    optimizer = make(whole.parameters(), lr=0.1)
    for number, sizes in enumerate(windows):
        data = normal(sum(sizes), 3, seed=number, dtype=torch.float64)
        outcome = fed(stepper, model, data.split(sizes))
        if len(sizes) < 4:
            assert outcome is None
            assert stepper.open
            outcome = stepper.finish()
        assert outcome is not None

        loss = loss_of(whole, data)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(whole.parameters(), clip or float("inf"))
        optimizer.step()
        optimizer.zero_grad()
        for p, q in zip(model.parameters(), whole.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-12)
        assert outcome.loss == pytest.approx(loss.item(), rel=1e-12)
        assert outcome.grad_norm == pytest.approx(norm.item(), rel=1e-12)
        assert (outcome.weight, outcome.micro_batches, outcome.update) == (sum(sizes), len(sizes), number)
        assert not stepper.open


def test_dividing_by_the_planned_number_is_another_gradient():
    """What the test above would find in the usual loop."""
    model, x = network(), normal(10, 3, dtype=torch.float64)
    for part in x.split([9, 1]):
        (loss_of(model, part) / 2).backward()
    usual = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    loss_of(model, x).backward()
    right = [p.grad for p in model.parameters() if p.grad is not None]
    assert max(float((a - b).abs().max()) for a, b in zip(usual, right, strict=True)) > 1e-2


def test_the_last_one_can_be_announced():
    model, stepper = one_weight(accumulate=4)
    assert push(stepper, model, [1.0, 0.0], weight=1) is None
    outcome = push(stepper, model, [0.0, 4.0], weight=3, last=True)
    assert outcome is not None
    assert model.w.tolist() == [-0.25, -3.0]


# -- order -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [torch.optim.SGD, gradstep.SGD])
def test_average_then_clip_by_hand(kind):
    """Gradients (12, 0) and (0, 16) of weight 1 each: the mean (6, 8) has norm 10, which is clipped to 5."""
    model, _ = one_weight()
    stepper = gradstep.Stepper(model, kind(model.parameters(), lr=1.0), accumulate=2, max_grad_norm=5.0)
    assert push(stepper, model, [12.0, 0.0]) is None
    outcome = push(stepper, model, [0.0, 16.0])
    assert outcome is not None
    assert outcome.stepped
    assert (outcome.grad_norm, outcome.weight, outcome.micro_batches) == (10.0, 2.0, 2)
    assert outcome.clip == pytest.approx(0.5)
    torch.testing.assert_close(model.w.detach(), torch.tensor([-3.0, -4.0]))
    assert model.w.grad is None


def test_without_a_bound_the_norm_is_told_all_the_same():
    model, stepper = one_weight()
    outcome = push(stepper, model, [3.0, 4.0])
    assert outcome is not None
    assert (outcome.grad_norm, outcome.clip) == (5.0, 1.0)
    assert model.w.tolist() == [-3.0, -4.0]


@pytest.mark.parametrize("kind", [torch.optim.SGD, gradstep.SGD])
def test_float32_gradients_whose_squares_leave_the_range(kind):
    model, _ = one_weight()
    stepper = gradstep.Stepper(model, kind(model.parameters(), lr=1.0), max_grad_norm=1.0)
    outcome = push(stepper, model, [3e30, 4e30])
    assert outcome is not None
    assert outcome.grad_norm == pytest.approx(5e30, rel=1e-6)
    torch.testing.assert_close(model.w.detach(), torch.tensor([-0.6, -0.8]))


def test_outcomes_tell_the_update_and_the_rate_it_was_made_with():
    model, _ = one_weight()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
    stepper = gradstep.Stepper(model, optimizer, schedule=schedule)
    found = [push(stepper, model, g) for g in ([1.0, 0.0], [float("nan"), 0.0], [1.0, 0.0], [1.0, 0.0])]
    assert [(o.stepped, o.update, o.lr) for o in found if o] == [
        (True, 0, 1.0),
        (False, 1, 0.5),
        (True, 1, 0.5),
        (True, 2, 0.25),
    ]
    assert stepper.updates == 3
    assert str(found[1]) == "update 1 skipped: the gradient of w is not finite"


@pytest.mark.parametrize("kind", KINDS)
def test_a_pure_schedule_is_asked_for_the_number_of_the_update(kind):
    model, _ = one_weight()
    lr = gradstep.schedules.warmup(updates=2, to=0.8).then(gradstep.schedules.constant(0.8))
    stepper = gradstep.Stepper(model, kind(model.parameters()), schedule=lr, accumulate=2)
    nan = [float("nan"), 0.0]
    found = [push(stepper, model, g) for g in ([1.0, 0.0],) * 2 + (nan,) * 2 + ([1.0, 0.0],) * 4]
    assert [o.lr for o in found if o] == [lr(0), lr(1), lr(1), lr(2)]
    assert stepper.optimizer.param_groups[0]["lr"] == lr(3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
def test_a_skipped_update_changes_no_bit(kind, bad):
    model = network(torch.float32)
    optimizer = kind([{"params": model[2].parameters()}, {"params": model[0].parameters()}], lr=0.1)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    stepper = gradstep.Stepper(model, optimizer, schedule=schedule, accumulate=2, max_grad_norm=1.0)
    data = [normal(4, 3, seed=i) for i in range(4)]
    fed(stepper, model, data[:2])
    before, position = snapshot(optimizer), schedule.state_dict()
    outcome = fed(stepper, model, [data[2], data[3] * bad])
    assert outcome is not None
    assert not outcome.stepped
    assert outcome.parameter == "0.weight"  # the first in the model, though it is in the second group
    assert_same(optimizer, before)
    assert schedule.state_dict() == position
    assert stepper.updates == 1
    assert all(p.grad is None for p in model.parameters())
    outcome = fed(stepper, model, data[2:])  # the next window knows nothing of it
    assert outcome is not None
    assert outcome.stepped


def test_only_the_culprit_is_named():
    model = network(torch.float32)
    stepper = gradstep.Stepper(model, gradstep.AdamW(model.parameters()))
    model[2].bias.register_hook(lambda g: g * float("inf"))
    outcome = fed(stepper, model, [normal(4, 3)])
    assert outcome is not None
    assert outcome.parameter == "2.bias"


@pytest.mark.parametrize("value", [3.0, float("inf")])
@pytest.mark.parametrize("kind", [gradstep.SGD, torch.optim.SGD])
def test_an_outcome_and_a_report_mean_the_same_by_the_same_names(value, kind):
    model, _ = one_weight()
    stepper = gradstep.Stepper(model, kind(model.named_parameters(), lr=1.0), accumulate=2, max_grad_norm=1.0)
    push(stepper, model, [value, 0.0])
    outcome: Any = push(stepper, model, [value, 0.0])
    plain, _ = one_weight()
    optimizer = gradstep.SGD(plain.named_parameters(), lr=1.0)
    plain.w.grad = torch.tensor([value, 0.0])
    optimizer.step(max_grad_norm=1.0)
    shared = {f.name for f in fields(gradstep.StepReport)} & {f.name for f in fields(gradstep.UpdateOutcome)}
    assert shared == {"stepped", "grad_norm", "clip", "reason"}
    for name in shared:
        assert getattr(outcome, name) == pytest.approx(getattr(optimizer.last_step, name)), name
    assert torch.equal(model.w, plain.w)


def test_the_schedule_is_driven_by_hand_written_objects_too():
    class Counter:
        count = 0

        def step(self):
            self.count += 1

        def state_dict(self):
            return {"count": self.count}

        def load_state_dict(self, state):
            self.count = state["count"]

    model, _ = one_weight()
    stepper = gradstep.Stepper(model, torch.optim.SGD(model.parameters()), schedule=Counter(), accumulate=2)
    for _ in range(6):
        push(stepper, model, [1.0, 0.0])
    assert stepper.state_dict()["schedule"] == {"count": 3}


def test_sparse_gradients_of_an_optimizer_that_takes_them():
    model: Any = nn.Embedding(4, 2, sparse=True)
    before = model.weight.detach().clone()
    stepper = gradstep.Stepper(model, torch.optim.SGD(model.parameters(), lr=1.0), accumulate=2, max_grad_norm=1.0)
    outcome = None
    for index in (1, 1):
        with stepper.autocast():
            loss = (model(torch.tensor([index])) * torch.tensor([3.0, 4.0])).sum()
        outcome = stepper.backward(loss)
    assert outcome is not None
    assert outcome.grad_norm == 5.0
    torch.testing.assert_close(before - model.weight.detach(), torch.tensor([[0.0, 0], [0.6, 0.8], [0, 0], [0, 0]]))


def test_two_steppers_on_two_parts_of_a_model():
    """As in a GAN: the loss of one part leaves gradients in the other, which may not get into its window."""
    model: Any = nn.Module()
    model.w, model.v = (nn.Parameter(torch.ones(())) for _ in range(2))
    first, second = (gradstep.Stepper(model, torch.optim.SGD([p], lr=0.1)) for p in (model.w, model.v))
    with first.autocast():
        loss = model.w * model.v
    assert first.backward(loss) is not None
    assert (model.w.item(), model.v.grad.item()) == (pytest.approx(0.9), 1.0)
    with second.autocast():
        loss = 2 * model.v
    with pytest.raises(RuntimeError, match="gradients from before the window"):
        second.backward(loss)
    second.discard()
    with second.autocast():
        loss = 2 * model.v
    second.backward(loss)
    assert model.v.item() == pytest.approx(0.8)


def test_a_weight_may_be_a_tensor():
    model, stepper = one_weight(accumulate=2)
    push(stepper, model, [1.0, 0.0], weight=torch.tensor(1))
    outcome = push(stepper, model, [0.0, 4.0], weight=torch.tensor(3))
    assert outcome is not None
    assert outcome.weight == 4.0
    assert model.w.tolist() == [-0.25, -3.0]


# -- calls out of order ----------------------------------------------------------------------------------------------


def test_calls_out_of_order():
    model, stepper = one_weight(accumulate=2)
    with pytest.raises(RuntimeError, match="without a forward pass: compute each loss inside"):
        stepper.backward(model.w.sum())
    with stepper.autocast():
        loss = model.w.sum()
        with pytest.raises(RuntimeError, match="leave the block first"):
            stepper.backward(loss)
        with pytest.raises(RuntimeError, match="one block per micro-batch"), stepper.autocast():
            pass
    with pytest.raises(RuntimeError, match=r"call stepper\.backward\(loss\) before stepper\.finish"):
        stepper.finish()
    stepper.backward(loss)
    with pytest.raises(RuntimeError, match="without a forward pass"):
        stepper.backward(model.w.sum())
    for call in (stepper.state_dict, lambda: stepper.load_state_dict({})):
        with pytest.raises(RuntimeError, match=r"middle of a window \(1 of 2 micro-batches\): call stepper\.finish"):
            call()
    assert stepper.finish() is not None
    assert model.w.tolist() == [-1.0, -1.0]
    assert stepper.finish() is None


def test_a_loss_may_be_computed_and_not_used():
    """Evaluation in the training precision."""
    model, stepper = one_weight(accumulate=2)
    push(stepper, model, [1.0, 0.0])
    for _ in range(2):
        with torch.no_grad(), stepper.autocast():
            model.w.sum()
    assert stepper.finish() is not None
    assert model.w.tolist() == [-1.0, 0.0]


@pytest.mark.parametrize("weight", [0, -1.0, float("nan"), float("inf")])
def test_weights_that_are_none(weight):
    model, stepper = one_weight(accumulate=2)
    push(stepper, model, [1.0, 0.0])
    with pytest.raises(ValueError, match="Invalid weight"):
        push(stepper, model, [1.0, 0.0], weight=weight)
    push(stepper, model, [1.0, 0.0])
    assert model.w.tolist() == [-1.0, 0.0]


def test_losses_that_are_none():
    model, stepper = one_weight()
    with stepper.autocast():
        pass
    with pytest.raises(ValueError, match=r"its shape is \(2,\)"):
        stepper.backward(model.w * 2)
    with pytest.raises(ValueError, match="requires no gradient"):
        stepper.backward(model.w.sum().detach())
    assert not stepper.open


def test_gradients_from_before_the_window():
    model, stepper = one_weight()
    model.w.sum().backward()
    with pytest.raises(RuntimeError, match="gradients from before the window"):
        push(stepper, model, [1.0, 0.0])
    stepper.discard()
    push(stepper, model, [1.0, 0.0])
    assert model.w.tolist() == [-1.0, 0.0]


def _data_zero(stepper, model):
    for p in model.parameters():
        p.grad.data.zero_()


@pytest.mark.parametrize(
    "clear",
    [
        lambda stepper, model: stepper.optimizer.zero_grad(),
        lambda stepper, model: stepper.optimizer.zero_grad(set_to_none=False),
        lambda stepper, model: model.zero_grad(),
        lambda stepper, model: model.zero_grad(set_to_none=False),
        _data_zero,
    ],
    ids=["none", "zero", "model none", "model zero", "data"],
)
@pytest.mark.parametrize("call", ["backward", "finish"])
@pytest.mark.parametrize("kind", [torch.optim.SGD, gradstep.SGD])
def test_gradients_cleared_inside_a_window(clear, call, kind):
    """The usual loop calls zero_grad() before every backward. Afterwards, discarded, the next window is whole."""
    model, _ = one_weight()
    stepper = gradstep.Stepper(model, kind(model.parameters(), lr=1.0), accumulate=3)
    for _ in range(2):  # also a second time: nothing remains of the first
        push(stepper, model, [1.0, 0.0])
        clear(stepper, model)
        for _ in range(2):
            with pytest.raises(RuntimeError, match=r"gradients of w were cleared .* micro-batch 1 of 3: .*discard"):
                stepper.finish() if call == "finish" else push(stepper, model, [1.0, 0.0])
            stepper._window._forward = type(stepper._window._forward)(0)  # the loss was computed, and not used
        assert model.w.tolist() == [0.0, 0.0]
        stepper.discard()
    for _ in range(3):
        push(stepper, model, [1.0, 2.0])
    assert model.w.tolist() == [-1.0, -2.0]


def test_gradients_that_are_zero_or_changed_inside_a_window_are_not_cleared_ones():
    """A micro-batch without gradient, a NaN, noise added by hand and a gradient that cancels: nobody cleared these."""
    model, stepper = one_weight(accumulate=5)
    push(stepper, model, [0.0, 0.0])
    push(stepper, model, [1.0, 0.0])
    push(stepper, model, [-1.0, 0.0])  # the sum is zero after this one
    model.w.grad.add_(torch.tensor([0.0, 5.0]))
    push(stepper, model, [0.0, 0.0])
    outcome = push(stepper, model, [5.0, 0.0])
    assert outcome is not None
    assert model.w.tolist() == [-1.0, -5.0]
    push(stepper, model, [float("nan"), 0.0])
    push(stepper, model, [0.0, 0.0])
    stepper.optimizer.zero_grad()
    with pytest.raises(RuntimeError, match="were cleared inside the window"):
        push(stepper, model, [1.0, 0.0])


class Failing(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, *gradients):
        raise MemoryError("no room")


def test_after_a_failed_backward_the_window_has_to_be_discarded():
    model, stepper = one_weight(accumulate=2)
    push(stepper, model, [1.0, 0.0])
    with stepper.autocast():
        loss = Failing.apply(model.w).sum()
    with pytest.raises(MemoryError):
        stepper.backward(loss)
    assert stepper.open
    for call in (stepper.finish, lambda: push(stepper, model, [1.0, 0.0])):
        with pytest.raises(RuntimeError, match=r"call stepper\.discard\(\)"):
            call()
    stepper.discard()
    assert not stepper.open
    push(stepper, model, [1.0, 0.0])
    push(stepper, model, [1.0, 0.0])
    assert model.w.tolist() == [-1.0, 0.0]


def test_a_failed_forward_changes_nothing():
    model, stepper = one_weight(accumulate=2)
    push(stepper, model, [1.0, 0.0])
    with pytest.raises(ZeroDivisionError), stepper.autocast():
        1 / 0  # noqa: B018  # what fails
    push(stepper, model, [1.0, 0.0])
    assert model.w.tolist() == [-1.0, 0.0]


# -- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"accumulate": 0}, ValueError, "Invalid accumulate: 0"),
        ({"accumulate": 1.5}, ValueError, "Invalid accumulate: 1.5"),
        ({"max_grad_norm": 0.0}, ValueError, "Invalid max_grad_norm: 0.0"),
        ({"precision": "fp8"}, ValueError, "Invalid precision: 'fp8' .choose 'float32', 'bfloat16', 'float16'"),
        ({"scaler": torch.amp.GradScaler("cpu")}, ValueError, "with precision='float16' only"),
        ({"schedule": 0.1}, TypeError, "must be one of gradstep.schedules, .*, not 0.1"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_refused_settings(options, error, words):
    with pytest.raises(error, match=words):
        one_weight(**options)


def test_refused_schedules():
    model, _ = one_weight()
    optimizer, other = (torch.optim.SGD(model.parameters(), lr=1.0) for _ in range(2))
    with pytest.raises(ValueError, match="made for another optimizer"):
        gradstep.Stepper(model, optimizer, schedule=torch.optim.lr_scheduler.StepLR(other, 1))
    groups: Any = gradstep.param_groups(network(), lr=1.0, layer_decay=0.5)
    with pytest.raises(ValueError, match=r"learning rates from 0.5 to 1, .* lr_factor="):
        gradstep.Stepper(model, torch.optim.SGD(groups), schedule=gradstep.schedules.constant(0.1))
    plateau: Any = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
    with pytest.raises(TypeError, match="needs a metric"):
        gradstep.Stepper(model, optimizer, schedule=plateau)


class AsksForTheLossAgain(torch.optim.SGD):
    def step(self, closure):  # type: ignore[override]
        return super().step(closure)


@pytest.mark.parametrize("kind", [torch.optim.LBFGS, AsksForTheLossAgain])
def test_an_optimizer_that_needs_a_closure_is_refused_at_construction(kind):
    model, _ = one_weight()
    with pytest.raises(TypeError, match=rf"{kind.__name__}\.step needs a closure .* in a loop of your own"):
        gradstep.Stepper(model, kind(model.parameters(), lr=1.0))


def test_what_is_no_optimizer_is_refused():
    model, _ = one_weight()
    with pytest.raises(TypeError, match=r"must be a torch\.optim\.Optimizer or a list of them"):
        gradstep.Stepper(model, [model])
    with pytest.raises(ValueError, match="list of optimizers is empty"):
        gradstep.Stepper(model, [])


# -- schedules that change, groups that come ---------------------------------------------------------------------------


def two_weights(schedule=None, kind=torch.optim.SGD, **options):
    """A stepper over one weight of two; the second can be added."""
    model: Any = nn.Module()
    model.w, model.q = (nn.Parameter(torch.zeros(1)) for _ in range(2))
    optimizer = kind([model.w], lr=1.0)
    if callable(schedule) and not isinstance(schedule, gradstep.schedules.Schedule):
        schedule = schedule(optimizer)
    return model, gradstep.Stepper(model, optimizer, schedule=schedule, **options)


def push_both(stepper, model):
    with stepper.autocast():
        loss = (model.w + model.q).sum()
    return stepper.backward(loss)


@pytest.mark.parametrize("kind", [torch.optim.SGD, gradstep.SGD])
def test_a_group_added_in_mid_run_goes_on_under_one_schedule(kind):
    """lr is 4, 2, 1: the second weight comes after the first update and makes those of 2 and 1."""
    lr = gradstep.schedules.exponential(4.0, factor=0.5)
    model, stepper = two_weights(lr, kind)
    model.q.requires_grad_(False)
    push_both(stepper, model)
    model.q.requires_grad_(True)
    stepper.optimizer.add_param_group({"params": [model.q]})
    push_both(stepper, model)
    push_both(stepper, model)
    assert (model.w.item(), model.q.item()) == (-7.0, -3.0)
    assert [group["lr"] for group in stepper.optimizer.param_groups] == [0.5, 0.5]


@pytest.mark.parametrize(
    ("schedule", "words"),
    [
        (lambda o: gradstep.Scheduler(o, lr=[constant(1.0)]), "has a schedule for each of 1"),
        (
            lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda _: 1.0),
            "LambdaLR was made for 1, .*stepper.schedule =",
        ),
        (lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 1.0, 9), "OneCycleLR was made for 1"),
        (constant(1.0), "group 1 was added with lr=0.125"),
    ],
    ids=["one by one", "LambdaLR", "OneCycleLR", "another rate"],
)
def test_a_group_that_cannot_follow_is_refused_before_anything_moves(schedule, words):
    """And the remedy of the message works: another schedule, under which both go on."""
    model, stepper = two_weights(schedule)
    before = stepper.state_dict()["schedule"]
    stepper.optimizer.add_param_group({"params": [model.q], "lr": 0.125})
    with pytest.raises(ValueError, match=words):
        push_both(stepper, model)
    assert (model.w.item(), model.q.item(), model.w.grad, stepper.updates) == (0.0, 0.0, None, 0)
    assert stepper.state_dict()["schedule"] == before
    lr = stepper.optimizer.param_groups[0]["lr"]
    stepper.schedule = gradstep.Scheduler(stepper.optimizer, lr_factor=constant(0.5))
    with stepper.autocast():
        loss = (model.w + model.q).sum()
    stepper.backward(loss)
    assert model.w.item() == pytest.approx(-0.5 * stepper.optimizer.param_groups[0]["initial_lr"])
    assert model.q.item() == -0.0625
    assert lr > 0


def test_torch_s_schedulers_that_multiply_go_on_with_a_new_group():
    model, stepper = two_weights(lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.5))
    push_both(stepper, model)
    model.q.grad = None
    stepper.optimizer.add_param_group({"params": [model.q], "lr": 2.0})
    push_both(stepper, model)
    push_both(stepper, model)
    assert (model.w.item(), model.q.item()) == (-1.75, -3.0)


def test_a_group_is_not_added_inside_a_window():
    model, stepper = two_weights(accumulate=2)
    push_both(stepper, model)
    stepper.optimizer.add_param_group({"params": [model.q]})
    with pytest.raises(RuntimeError, match=r"group was added inside a window: call stepper.finish\(\)"):
        push_both(stepper, model)
    stepper.discard()
    push_both(stepper, model)
    stepper.optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(1))]})
    with pytest.raises(RuntimeError, match="group was added inside a window"):
        stepper.finish()
    stepper.discard()
    for _ in range(2):
        push_both(stepper, model)
    assert (model.w.item(), model.q.item()) == (-1.0, -1.0)


def test_the_schedule_can_be_replaced():
    """A pure one goes on at the number of the update: of lr(n) = n + 1 the third update uses 3."""
    model, stepper = one_weight(accumulate=1, schedule=constant(1.0))
    for _ in range(2):
        push(stepper, model, [1.0, 0.0])
    line = gradstep.schedules.linear(1.0, 11.0, updates=10)
    stepper.schedule = line
    outcome = push(stepper, model, [1.0, 0.0])
    assert outcome is not None
    assert (outcome.lr, model.w[0].item()) == (3.0, -5.0)
    assert stepper.schedule.state_dict() == {"last_epoch": 3}
    stepper.schedule = None
    outcome = push(stepper, model, [1.0, 0.0])
    assert outcome is not None
    assert outcome.lr == 4.0
    other = torch.optim.SGD([torch.zeros(1, requires_grad=True)])
    with pytest.raises(ValueError, match="made for another optimizer"):
        stepper.schedule = gradstep.Scheduler(other, constant(0.1))
    assert stepper.schedule is None
    _, window = one_weight(accumulate=2)
    push(window, window.model, [1.0, 0.0])
    with pytest.raises(RuntimeError, match="cannot replace the schedule in the middle of a window"):
        window.schedule = constant(1.0)


# -- several optimizers on one loss ------------------------------------------------------------------------------------


def shared(kinds, schedule=None, **options):
    """A stepper over w (3 and 4 are its gradients) and q (12), each with an optimizer of lr 1."""
    model: Any = nn.Module()
    model.w, model.q = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1))
    optimizers = [kind([p], lr=1.0) for kind, p in zip(kinds, (model.w, model.q), strict=True)]
    return model, gradstep.Stepper(model, optimizers, schedule=schedule, **options)


def push_shared(stepper, model, factor=1.0):
    with stepper.autocast():
        loss = factor * ((model.w * torch.tensor([3.0, 4.0])).sum() + 12.0 * model.q.sum())
    return stepper.backward(loss)


PAIRS = [(torch.optim.SGD, torch.optim.SGD), (gradstep.SGD, torch.optim.SGD), (gradstep.SGD, gradstep.SGD)]


@pytest.mark.parametrize("kinds", PAIRS)
def test_several_optimizers_share_one_norm_one_clip_and_one_window(kinds):
    """The gradient (3, 4, 12) has norm 13, which is clipped to 6.5: half of each part."""
    model, stepper = shared(kinds, accumulate=2, max_grad_norm=6.5)
    assert push_shared(stepper, model, 0.5) is None
    outcome = push_shared(stepper, model, 1.5)
    assert outcome is not None
    assert (outcome.grad_norm, outcome.clip) == (13.0, pytest.approx(0.5))
    torch.testing.assert_close(model.w.detach(), torch.tensor([-1.5, -2.0]))
    torch.testing.assert_close(model.q.detach(), torch.tensor([-6.0]))
    assert model.w.grad is None
    assert model.q.grad is None


@pytest.mark.parametrize("kinds", PAIRS)
def test_a_gradient_that_is_not_finite_holds_all_optimizers_back(kinds):
    model, stepper = shared(kinds, schedule=constant(1.0))
    with stepper.autocast():
        loss = model.w.sum() + float("inf") * model.q.sum()
    outcome = stepper.backward(loss)
    assert outcome is not None
    assert (outcome.stepped, outcome.parameter) == (False, "q")
    assert (model.w.tolist(), model.q.tolist(), stepper.updates) == ([0.0, 0.0], [0.0], 0)
    assert [one.state_dict() for one in stepper.schedule] == [{"last_epoch": 0}] * 2


@pytest.mark.parametrize("kinds", PAIRS)
def test_a_schedule_for_each_optimizer_or_one_for_all(kinds):
    model, stepper = shared(kinds, schedule=[constant(0.5), None])
    push_shared(stepper, model)
    assert (model.w.tolist(), model.q.tolist()) == ([-1.5, -2.0], [-12.0])
    model, stepper = shared(kinds, schedule=constant(0.5))
    push_shared(stepper, model)
    assert (model.w.tolist(), model.q.tolist()) == ([-1.5, -2.0], [-6.0])


def test_what_several_optimizers_cannot_share():
    model, stepper = shared(PAIRS[1])
    first, second = stepper.optimizers
    with pytest.raises(RuntimeError, match=r"has 2 optimizers: take one of stepper\.optimizers"):
        _ = stepper.optimizer
    with pytest.raises(ValueError, match="one Scheduler, and there are 2 optimizers: give a list"):
        gradstep.Stepper(model, [first, second], schedule=gradstep.Scheduler(first, constant(1.0)))
    with pytest.raises(ValueError, match="schedule has 1 entries, and there are 2 optimizers"):
        gradstep.Stepper(model, [first, second], schedule=[constant(1.0)])
    with pytest.raises(ValueError, match="made for another optimizer"):
        gradstep.Stepper(model, [first, second], schedule=[None, gradstep.Scheduler(first, constant(1.0))])
    with pytest.raises(ValueError, match="q is in two optimizers"):
        gradstep.Stepper(model, [first, second, torch.optim.SGD([model.q], lr=1.0)])
    second.param_groups[0]["lr"] = 0.5
    with pytest.raises(ValueError, match=r"learning rates from 0.5 to 1, .* a list with a schedule for each"):
        gradstep.Stepper(model, [first, second], schedule=constant(1.0))


def test_several_optimizers_resume_and_nothing_is_changed_when_one_refuses():
    model, stepper = shared((gradstep.AdamW, torch.optim.AdamW), schedule=constant(0.5))
    for _ in range(3):
        push_shared(stepper, model)
    saved = deepcopy(stepper.state_dict())
    again, resumed = shared((gradstep.AdamW, torch.optim.AdamW), schedule=constant(0.5))
    again.load_state_dict(model.state_dict())
    resumed.load_state_dict(saved)
    push_shared(stepper, model)
    push_shared(resumed, again)
    assert torch.equal(model.w, again.w)
    assert torch.equal(model.q, again.q)

    before = [snapshot(optimizer) for optimizer in resumed.optimizers], deepcopy(resumed.state_dict()["schedule"])
    for broken in (
        {"optimizer": [saved["optimizer"][0], {**saved["optimizer"][1], "param_groups": []}]},
        {"schedule": [saved["schedule"][0], {"last_epoch": -1}]},
        {"updates": "many"},
    ):
        with pytest.raises(ValueError, match=r"parameter groups|last_epoch|many"):
            resumed.load_state_dict({**saved, **broken})
        for optimizer, one in zip(resumed.optimizers, before[0], strict=True):
            assert_same(optimizer, one)
        assert (resumed.state_dict()["schedule"], resumed.updates) == (before[1], 4)
    _, single = one_weight(schedule=constant(1.0))
    with pytest.raises(ValueError, match="this stepper has 1, and the checkpoint 2"):
        single.load_state_dict(saved)


def test_the_finder_sweeps_several_optimizers_and_puts_them_back():
    model, stepper = shared((gradstep.AdamW, torch.optim.AdamW))
    stepper.optimizers[1].param_groups[0]["lr"] = 0.25
    push_shared(stepper, model)
    before = [snapshot(optimizer) for optimizer in stepper.optimizers]
    rates = []

    def loss_fn(model, batch):
        rates.append([optimizer.param_groups[0]["lr"] for optimizer in stepper.optimizers])
        return (model.w - batch).square().sum() + (model.q + batch).square().sum()

    gradstep.lr_find(stepper, loss_fn, [1.0, 2.0], updates=10)
    assert all(second == pytest.approx(0.25 * first) for first, second in rates)
    for optimizer, one in zip(stepper.optimizers, before, strict=True):
        assert_same(optimizer, one)


# -- updates that are skipped for ever ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("precision", "loss", "words"),
    [
        (
            "float16",
            lambda m: (m.w + 1).sum() * float("inf"),
            r"loss scale of [\d.e-]+\. The loss itself is inf: no loss scale helps against an overflow in the forward",
        ),
        (
            "float16",
            lambda m: m.w.square().sum().sqrt(),
            r"The loss is finite \(0\) and its gradient is not: look for an infinite slope.*'bfloat16'",
        ),
        (
            "float32",
            lambda m: m.w.square().sum().sqrt(),
            r"all skipped, because the gradient of w is not finite.*an infinite slope .sqrt",
        ),
        (
            "bfloat16",
            lambda m: (m.w + 1).sum() * float("nan"),
            r"all skipped, .* The loss itself is nan: look for log\(0\)",
        ),
    ],
)
def test_updates_that_are_skipped_for_ever_end_the_run_with_the_cause(precision, loss, words):
    model, stepper = one_weight(precision=precision)

    def go():
        with stepper.autocast():
            value = loss(model)
        return stepper.backward(value)

    for _ in range(2):  # caught and gone on, it stops again
        for _ in range(29):
            outcome = go()
            assert outcome is not None
            assert not outcome.stepped
        with pytest.raises(RuntimeError, match=words) as caught:
            go()
        assert "grad_scale" not in str(caught.value)
        assert not stepper.open


def test_a_weight_that_is_not_finite_is_named():
    model, stepper = one_weight()
    with torch.no_grad():
        model.w[0] = float("nan")
    for _ in range(29):
        push(stepper, model, [float("nan"), 0.0])
    with pytest.raises(RuntimeError, match=r"w of the model is not finite itself.*go back to a checkpoint"):
        push(stepper, model, [float("nan"), 0.0])


def test_a_large_loss_scale_that_finds_its_size_is_no_overflow_for_ever():
    """From 2¹⁰⁰ it takes 85 skips until a gradient of 1 fits into float16, and none of them ends the run."""
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**100)
    model, stepper = one_weight(precision="float16", scaler=scaler)
    skipped = 0
    while True:
        with stepper.autocast():
            loss = torch.nn.functional.linear(model.w, torch.full((1, 2), 1.0)).sum()
        outcome = stepper.backward(loss)
        assert outcome is not None
        if outcome.stepped:
            break
        skipped += 1
    assert skipped == 85


def test_one_good_update_begins_the_count_anew():
    model, stepper = one_weight()
    for _ in range(3):
        for _ in range(29):
            push(stepper, model, [float("nan"), 0.0])
        push(stepper, model, [1.0, 0.0])
    assert stepper.updates == 3


# -- precision and exchange -----------------------------------------------------------------------------------------


def test_bf16_is_torchs_autocast():
    model, by_hand = network(torch.float32), network(torch.float32)
    stepper = gradstep.Stepper(model, torch.optim.AdamW(model.parameters()), precision="bf16")
    optimizer = torch.optim.AdamW(by_hand.parameters())
    for t in range(3):
        x = normal(4, 3, seed=t)
        with stepper.autocast():
            assert model(x).dtype == torch.bfloat16
        fed(stepper, model, [x])
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_of(by_hand, x)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert_same(stepper.optimizer, optimizer)


class Deferring(nn.Linear):
    """A model that writes down what runs without exchange."""

    def __init__(self):
        super().__init__(1, 1)
        self.silent = False
        self.seen: list[tuple[str, bool]] = []
        self.weight.register_hook(lambda _: self.seen.append(("backward", self.silent)))

    @contextmanager
    def no_sync(self):
        self.silent = True
        yield
        self.silent = False

    def forward(self, x):
        self.seen.append(("forward", self.silent))
        return super().forward(x)


@pytest.mark.parametrize("wrapped", [False, True], ids=["itself", "inside another"])
def test_gradients_are_exchanged_in_the_last_micro_batch_only(wrapped):
    model = Deferring()
    outer = nn.Sequential(model) if wrapped else model
    stepper = gradstep.Stepper(outer, torch.optim.SGD(model.parameters()), accumulate=3)

    def run(**options):
        with stepper.autocast(**options):
            loss = model(torch.ones(1, 1)).sum()
        stepper.backward(loss)
        seen, model.seen = model.seen, []
        assert [what for what, _ in seen] == ["forward", "backward"]
        return [silent for _, silent in seen]

    for _ in range(2):
        assert [run(), run(), run()] == [[True, True], [True, True], [False, False]]
    assert [run(), run(last=True)] == [[True, True], [False, False]]


def test_a_rehearsal_leaves_the_stepper_where_it_is():
    model, stepper = one_weight(accumulate=2, max_grad_norm=1.0, precision="bfloat16", schedule=constant(0.5))
    push(stepper, model, [1.0, 0.0])
    stepper.discard()
    trial = stepper.rehearsal()
    assert (trial.accumulate, trial.precision, trial.schedule) == (2, "bfloat16", None)
    assert (trial.model, trial.optimizer) == (stepper.model, stepper.optimizer)
    stepper.optimizer.param_groups[0]["lr"] = 0.25
    push(trial, model, [4.0, 0.0])
    assert trial.open
    assert not stepper.open
    outcome = push(trial, model, [4.0, 0.0])
    assert outcome is not None
    assert (outcome.lr, outcome.clip) == (0.25, pytest.approx(0.25))
    assert (trial.updates, stepper.updates) == (1, 0)
    assert stepper.optimizer.param_groups[0]["lr"] == 0.25, "nobody moved the learning rate"


def test_a_rehearsal_in_float16_has_a_scale_of_its_own():
    model, stepper = one_weight(precision="float16")
    before = stepper.state_dict()["scaler"]
    trial = stepper.rehearsal()
    outcome = push(trial, model, [float("inf"), 0.0])
    assert outcome is not None
    assert not outcome.stepped
    assert stepper.state_dict()["scaler"] == before
    assert trial.state_dict()["scaler"] != before


@pytest.mark.parametrize("kind", [gradstep.AdamW, torch.optim.AdamW])
@pytest.mark.parametrize("wrapped", WRAPPERS)
def test_what_a_trainer_puts_around_an_optimizer(kind, wrapped):
    """The same as without: windows, clipping, schedule, a sweep in between, and on from its state.

    Accelerate's step() takes no norm to clip to: gradients are then clipped before it, which may round otherwise.
    """
    made = []
    for around in (lambda inner: inner, wrapped):
        torch.manual_seed(0)
        model = torch.nn.Linear(3, 2)
        data = [torch.randn(4, 3) for _ in range(8)]

        def loss_fn(model, batch):
            return model(batch).square().mean()

        def stepper(model, around=around):
            optimizer = around(kind(model.parameters(), lr=0.1))
            schedule = gradstep.schedules.linear(0.1, 0.0, updates=8)
            return gradstep.Stepper(model, optimizer, schedule=schedule, accumulate=2, max_grad_norm=0.1)

        def train(owner, model, data=data):
            for batch in data:
                with owner.autocast():
                    loss = loss_fn(model, batch)
                owner.backward(loss)

        first = stepper(model)
        train(first, model)
        assert first.updates == 4
        before = [p.detach().clone() for p in model.parameters()]
        gradstep.lr_find(first, loss_fn, data, updates=25)
        assert all(torch.equal(p, q) for p, q in zip(before, model.parameters(), strict=True))
        again = torch.nn.Linear(3, 2)
        again.load_state_dict(model.state_dict())
        second = stepper(again)
        second.load_state_dict(deepcopy(first.state_dict()))
        for owner, trained in ((first, model), (second, again)):
            train(owner, trained)
            made.append([p.detach() for p in trained.parameters()])
    apart = 0.0 if wrapped is like_lightning or kind is torch.optim.AdamW else 1e-7
    for others in made[1:]:
        for p, q in zip(made[0], others, strict=True):
            torch.testing.assert_close(p, q, rtol=0.0, atol=apart)
    assert torch.equal(made[2][0], made[3][0])

"""State that nobody has seen is not looked at again; state that somebody has is."""

import copy
import functools
import math
import pickle

import pytest
import torch

import gradstep
from tests.training import assert_same_bits, give, normal, unchanged

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


def taken_from(optimizer, way):
    """The entry of the second parameter, as somebody may have got hold of it."""
    if way == "state":
        return optimizer.state[optimizer.param_groups[0]["params"][1]]
    if way == "copy":
        return taken_from(copy.copy(optimizer), "state")
    return optimizer.state_dict()["state"][1]


def freed(t):
    t.untyped_storage().resize_(0)


@pytest.mark.parametrize("engine", ["auto", "eager"])
@pytest.mark.parametrize("way", ["state", "state_dict", "copy"])
@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda e: freed(e["exp_avg"]), "exp_avg has no memory for its 70 elements"),
        (lambda e: e["exp_avg"].untyped_storage().resize_(8), "exp_avg has no memory for its 70 elements"),
        (lambda e: e["exp_avg"].resize_(7), r"exp_avg has shape \(7,\)"),
        (lambda e: setattr(e["exp_avg_sq"], "data", torch.zeros(1000)), r"exp_avg_sq has shape \(1000,\)"),
        (lambda e: e["exp_avg"].unsqueeze_(0), r"exp_avg has shape \(1, 70\)"),
    ],
)
def test_memory_of_state_that_is_changed_in_its_place(spoil, words, way, engine):
    """The tensor stays the same object; whoever holds it can take its memory away."""
    optimizer, params = trained(2, look=False, kind=functools.partial(gradstep.AdamW, engine=engine))
    before = [p.detach().clone() for p in params]
    spoil(taken_from(optimizer, way))
    with pytest.raises(RuntimeError, match=f"parameter 1 of group 0 does not fit: {words}"):
        optimizer.step()
    for p, old in zip(params, before, strict=True):
        assert_same_bits(p.detach(), old)
    assert [int(optimizer.state[p]["step"]) for p in params] == [2, 2, 2]


@pytest.mark.parametrize("engine", ["auto", "eager"])
def test_an_axis_more_of_a_single_number(engine):
    optimizer, params = trained(2, look=False, kind=functools.partial(gradstep.AdamW, engine=engine))
    optimizer.state[params[2]]["exp_avg"].unsqueeze_(0)
    with pytest.raises(RuntimeError, match=r"parameter 2 of group 0 does not fit: exp_avg has shape \(1,\)"):
        optimizer.step()


@pytest.mark.parametrize("way", ["state", "state_dict", "copy"])
def test_data_of_state_that_is_replaced(way):
    """It is used from then on, as in torch; and lazily negated numbers are not taken for what lies in memory."""
    optimizer, params = trained(2, look=False)
    entry = taken_from(optimizer, way)
    entry["exp_avg"].data = torch.full((70,), 7.0)
    give(params, [torch.zeros(s) for s in SHAPES])
    optimizer.step()
    torch.testing.assert_close(entry["exp_avg"], torch.full((70,), 0.9 * 7.0))
    entry["exp_avg"].data = torch._neg_view(entry["exp_avg"].data)
    with pytest.raises(RuntimeError, match="exp_avg is a lazily conjugated or negated view"):
        optimizer.step()


@pytest.mark.parametrize("count", [-5.0, 2.5, 1e30, float("nan"), float("inf")])
def test_a_step_count_that_is_changed_in_its_place(count):
    optimizer, params = trained(2, look=False)
    optimizer.state[params[1]]["step"].fill_(count)
    with unchanged(optimizer), pytest.raises(ValueError, match="parameter 1 of group 0 does not fit: step is "):
        optimizer.step()
    optimizer.state[params[1]]["step"].fill_(7)
    optimizer.step()
    optimizer.state[params[1]]["step"].data = torch.tensor(20.0)
    optimizer.step()
    assert [int(optimizer.state[p]["step"]) for p in params] == [4, 21, 4]


@pytest.mark.parametrize("engine", ["auto", "eager"])
@pytest.mark.parametrize("way", ["state", "state_dict", "copy"])
@pytest.mark.parametrize(
    ("kind", "key"), [(gradstep.AdamW, "step"), (gradstep.NAdam, "step"), (gradstep.NAdam, "mu_product")]
)
@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        (lambda t: torch.ones(50), TypeError, r"is a torch.float32 tensor of shape \(50,\), but must be a"),
        (lambda t: torch.ones(0), TypeError, r"is a torch.float32 tensor of shape \(0,\), but must be a"),
        (lambda t: t.view(1).view(torch.uint8), TypeError, r"is a torch.uint8 tensor of shape \(4,\), but must be a"),
        (lambda t: torch._neg_view(torch.full((), math.inf)), ValueError, "is -inf, but must be"),
    ],
)
def test_a_number_that_is_changed_in_its_place(data, error, words, kind, key, way, engine):
    """A number is taken from the place where it was as long as it is the same kind of tensor there."""
    optimizer, params = trained(2, look=False, kind=functools.partial(kind, engine=engine))
    number = taken_from(optimizer, way)[key]
    number.data = data(number.detach())
    with unchanged(optimizer), pytest.raises(error, match=f"1 of group 0 does not fit: {key} {words}"):
        optimizer.step()
    number.data = torch.full((), 0.5 if key == "mu_product" else 7.0)
    optimizer.step()
    assert [int(optimizer.state[p]["step"]) for p in params] == [3, 3 if key == "mu_product" else 8, 3]


def test_the_sign_of_a_number_that_is_negated_lazily():
    """It lies where it lay, and stands for another number."""
    optimizer, params = trained(2, look=False)
    step = optimizer.state[params[1]]["step"]
    step.data = torch._neg_view(step.detach())
    with unchanged(optimizer), pytest.raises(ValueError, match="1 of group 0 does not fit: step is -2, but must be"):
        optimizer.step()


def test_a_product_that_is_changed_in_its_place():
    optimizer, params = trained(2, look=False, kind=gradstep.NAdam)
    optimizer.state[params[1]]["mu_product"].fill_(float("nan"))
    with (
        unchanged(optimizer),
        pytest.raises(ValueError, match=r"1 of group 0 .* mu_product is nan"),
    ):
        optimizer.step()


@pytest.mark.parametrize("event", ["loaded", "a parameter more", "data replaced"])
@pytest.mark.parametrize("package", [gradstep, torch.optim])
def test_numbers_that_somebody_holds_go_on_with_the_averages(package, event):
    """Whatever makes the optimizer lay out its state anew, as in torch."""
    optimizer, params = trained(2, look=False, kind=package.NAdam)
    if event == "loaded":
        optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    held = optimizer.state_dict()["state"]
    if event == "a parameter more":
        more = torch.ones(2, requires_grad=True)
        give([more], [torch.ones(2)])
        optimizer.add_param_group({"params": [more]})
    if event == "data replaced":
        params[0].data = params[0].detach().clone()
    optimizer.step()
    for key, p in enumerate(params):
        assert held[key]["step"] == 3.0
        assert held[key]["mu_product"] == optimizer.state[p]["mu_product"]
        assert_same_bits(held[key]["exp_avg"], optimizer.state[p]["exp_avg"])


def test_one_number_for_two_parameters():
    """Each goes on from it alone."""
    optimizer, params = trained(2, look=True)
    shared = torch.tensor(5.0)
    for p in params[:2]:
        optimizer.state[p]["step"] = shared
    for _ in range(2):
        optimizer.step()
    assert [int(optimizer.state[p]["step"]) for p in params] == [7, 7, 4]


def test_a_shallow_copy_shares_the_state():
    optimizer, params = trained(2, look=False)
    twin = copy.copy(optimizer)
    for stepped in (twin, optimizer, twin):
        stepped.step()
    assert [int(optimizer.state[p]["step"]) for p in params] == [5, 5, 5]


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

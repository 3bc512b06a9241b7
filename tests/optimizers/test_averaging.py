"""Optimizers that average the weights: what ``eval()`` and ``train()`` do, and what is refused in between."""

import copy
import pickle
from typing import Any

import pytest
import torch

import gradstep
from tests.training import gradients, leaves, normal, trained, unchanged, walk

MATRIX = [(70, 67)]


def test_the_average_of_sgd_is_the_mean_of_the_iterates_without_momentum():
    # γ = 0.1: z = 1 − 0.1·(g₁ + … + g_t), whatever y is, since the gradients are given. z: 0.8, 0.4, 0.1
    [p] = leaves([torch.ones(())])
    optimizer = gradstep.ScheduleFreeSGD([p], lr=0.1, momentum=0.5)
    walk(optimizer, [p], [[torch.tensor(g)] for g in (2.0, 4.0, 3.0)])
    optimizer.eval()
    assert p.item() == pytest.approx((0.8 + 0.4 + 0.1) / 3)
    optimizer.train()
    assert p.item() == pytest.approx(4 / 15)


@pytest.mark.parametrize(
    ("dtype", "options"),
    [
        (torch.float32, {}),
        (torch.float32, {"state": "8bit"}),
        (torch.bfloat16, {"rounding": "kahan"}),
        (torch.bfloat16, {"rounding": "stochastic", "state": "8bit", "paged": True}),
    ],
    ids=str,
)
def test_training_goes_on_from_the_same_bits_after_an_evaluation(dtype, options):
    start, steps = [normal(*MATRIX[0], dtype=dtype)], gradients(6, MATRIX, dtype)
    optimizer, params = trained(gradstep.ScheduleFreeAdamW, start, steps[:3], lr=0.01, **options)
    optimizer.eval()
    optimizer.eval()
    optimizer.train()
    optimizer.train()
    walk(optimizer, params, steps[3:])
    _, straight = trained(gradstep.ScheduleFreeAdamW, start, steps, lr=0.01, **options)
    assert torch.equal(params[0], straight[0])


def test_the_average_is_read_from_8_bit_state():
    start, steps = [normal(*MATRIX[0])], gradients(6, MATRIX)
    ways = [trained(gradstep.ScheduleFreeAdamW, start, steps, lr=0.01, state=state) for state in ("float32", "8bit")]
    for optimizer, _ in ways:
        optimizer.eval()
    (_, [exact]), (_, [narrow]) = ways
    torch.testing.assert_close(narrow, exact, rtol=0, atol=2e-3)  # steps of 0.01, in codes of 0.4%


def test_what_would_mislead_in_between_is_refused_and_changes_nothing():
    optimizer, params = trained(gradstep.ScheduleFreeSGD, [normal(3)], gradients(2, [(3,)]))
    saved = copy.deepcopy(optimizer.state_dict())
    optimizer.eval()
    before = params[0].detach().clone()
    for attempt in (optimizer.step, lambda: optimizer.load_state_dict(saved)):
        with pytest.raises(RuntimeError, match=r"have their averaged weights: call optimizer.train\(\) before"):
            attempt()
    assert torch.equal(params[0], before)
    optimizer.train()
    optimizer.step()
    optimizer.load_state_dict(saved)


def test_a_group_whose_rule_averages_needs_an_optimizer_that_does():
    one, other = leaves([normal(3), normal(4)])
    groups: list[dict[str, Any]] = [{"params": [one]}, {"params": [other], "rule": "ScheduleFreeSGD", "lr": 0.1}]
    with pytest.raises(ValueError, match="make the optimizer of ScheduleFreeSGD, and give the other groups 'rule'"):
        gradstep.AdamW(groups)
    groups[1]["rule"] = "AdamW"
    both = gradstep.ScheduleFreeSGD(groups)
    walk(both, [one, other], gradients(2, [(3,), (4,)]))
    before = [p.detach().clone() for p in (one, other)]
    both.eval()
    assert not torch.equal(one, before[0])
    assert torch.equal(other, before[1])


def copied(optimizer, params):
    return copy.deepcopy((optimizer, params))


def pickled(optimizer, params):
    return pickle.loads(pickle.dumps((optimizer, params)))


@pytest.mark.parametrize("duplicate", [copied, pickled])
def test_a_copy_made_in_eval_mode_has_both_weights_and_trains_on_as_the_original(duplicate):
    optimizer, params = trained(gradstep.ScheduleFreeAdamW, [normal(3)], gradients(2, [(3,)]), lr=0.1)
    optimizer.eval()
    twin, (p,) = duplicate(optimizer, params)
    for attempt in (twin.step, lambda: twin.load_state_dict({})):
        with pytest.raises(RuntimeError, match=r"have their averaged weights: call optimizer.train\(\) before"):
            attempt()
    assert torch.equal(p, params[0])
    for one, its in ((optimizer, params), (twin, [p])):
        one.train()
        walk(one, its, gradients(1, [(3,)]))
    assert torch.equal(p, params[0])


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize(
    ("rule", "dtype", "options"),
    [
        (gradstep.rules.ScheduleFreeAdamW, torch.float32, {"state": "8bit"}),
        (gradstep.rules.ScheduleFreeSGD, torch.float64, {}),
        (gradstep.rules.ScheduleFreeAdamW, torch.bfloat16, {"rounding": "kahan", "paged": True}),
        (gradstep.modify(gradstep.rules.AdamW, gradstep.rules.EMA), torch.float32, {}),
    ],
    ids=str,
)
def test_a_checkpoint_saved_in_eval_mode_trains_on_from_the_same_bits(rule, dtype, options, named, tmp_path):
    make, shapes = gradstep.optimizer(rule), [MATRIX[0], ()]
    start, steps = [normal(*shape, dtype=dtype) for shape in shapes], gradients(6, shapes, dtype)

    def build(params):
        return make([(f"p{i}", p) for i, p in enumerate(params)] if named else params, lr=0.01, **options)

    params = leaves(start)
    optimizer = build(params)
    walk(optimizer, params, steps[:3])
    optimizer.eval()
    torch.save([optimizer.state_dict(), [p.detach() for p in params]], tmp_path / "saved.pt")
    averaged = [p.detach().clone() for p in params]
    optimizer.train()
    walk(optimizer, params, steps[3:])

    state, weights = torch.load(tmp_path / "saved.pt", weights_only=True)
    others = leaves(weights)
    other = build(others)
    other.load_state_dict(state)
    assert all(map(torch.equal, others, averaged))
    with pytest.raises(RuntimeError, match=r"call optimizer.train\(\) before step"):
        other.step()
    other.train()
    assert not any("training_weights" in entry for entry in other.state.values())
    walk(other, others, steps[3:])
    assert all(map(torch.equal, others, params))


def test_a_checkpoint_of_eval_mode_that_lost_the_weights_of_training_is_refused():
    optimizer, params = trained(gradstep.ScheduleFreeSGD, [normal(3)], gradients(2, [(3,)]))
    optimizer.eval()
    saved = optimizer.state_dict()
    del saved["state"][0]["training_weights"], saved["gradstep"]  # as a distributed checkpoint reads it
    other = gradstep.ScheduleFreeSGD(leaves(params))
    with pytest.raises(RuntimeError, match="saved in eval mode, and its 'training_weights' are missing"):
        other.load_state_dict(saved)
    assert not other.state


@pytest.mark.parametrize(
    "weights",
    [torch.zeros(5), torch.zeros(3, 4, dtype=torch.int64), "x", None],
    ids=["shape", "integers", "text", "none"],
)
def test_weights_of_training_that_do_not_fit_are_refused_before_anything_changes(weights):
    p = torch.ones(3, 4, requires_grad=True)
    optimizer = gradstep.ScheduleFreeAdamW([p])
    p.grad = torch.ones(3, 4)
    optimizer.step()
    optimizer.eval()
    saved = copy.deepcopy(optimizer.state_dict())
    saved["state"][0]["training_weights"] = weights
    other = gradstep.ScheduleFreeAdamW([torch.ones(3, 4, requires_grad=True)])
    with unchanged(other), pytest.raises(RuntimeError, match="'training_weights' of a parameter do not fit"):
        other.load_state_dict(saved)
    other.train()  # is in train mode still


def test_a_shallow_copy_does_not_bring_old_weights_back():
    optimizer, params = trained(gradstep.ScheduleFreeSGD, [normal(3)], gradients(2, [(3,)]), lr=0.1)
    optimizer.eval()
    shallow = copy.copy(optimizer)
    optimizer.train()
    walk(optimizer, params, gradients(1, [(3,)]))
    after = params[0].detach().clone()
    shallow.train()
    assert torch.equal(params[0], after)


def test_a_step_with_hooks_is_refused_too():
    optimizer, _ = trained(gradstep.ScheduleFreeSGD, [normal(3)], gradients(2, [(3,)]))
    optimizer.register_step_post_hook(lambda *_: None)
    optimizer.eval()
    with pytest.raises(RuntimeError, match="have their averaged weights"):
        optimizer.step()


def test_an_eval_that_fails_changes_no_weights():
    optimizer, params = trained(gradstep.ScheduleFreeSGD, [normal(3), normal(4)], gradients(2, [(3,), (4,)]))
    before = [p.detach().clone() for p in params]
    entry = optimizer.state[params[1]]
    lost = {name: entry.pop(name) for name in list(entry) if name != "step"}
    for _ in range(2):  # the second call too: it must not take the parameters for averaged
        with pytest.raises(KeyError):
            optimizer.eval()
        assert all(map(torch.equal, params, before))
    entry.update(lost)
    optimizer.step()


@pytest.mark.parametrize("hooked", [False, True])
def test_a_step_with_hooks_and_a_released_gradient_are_refused(hooked):
    model = torch.nn.Linear(3, 2)
    optimizer = gradstep.ScheduleFreeSGD(model.named_parameters(), lr=0.1)
    if hooked:
        optimizer.register_step_post_hook(lambda *_: None)
    with gradstep.release_gradients(model, optimizer):
        model(torch.ones(4, 3)).sum().backward()
        optimizer.step()
        optimizer.eval()
        before = model.weight.detach().clone()
        with pytest.raises(RuntimeError, match=r"call optimizer.train\(\) before step\(\)"):
            model(torch.ones(4, 3)).sum().backward()
        assert torch.equal(model.weight, before)
    with pytest.raises(RuntimeError, match=r"call optimizer.train\(\) before step\(\)"):
        optimizer.step()

"""What users do to parameters, state and groups between two steps."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import gradstep
from tests.registry import subjects
from tests.training import assert_near, assert_same, assert_same_bits, give, leaves, normal, snapshot, trained, walk

N = 5


def steps(count, *shapes, first=1):
    return [[normal(*s, seed=10 * t + i) for i, s in enumerate(shapes)] for t in range(first, first + count)]


def twins(name, *shapes, **options):
    """Our optimizer and torch's of the same name with equal parameters."""
    start = [normal(*s, seed=i) for i, s in enumerate(shapes)]
    result = []
    for package in (gradstep, torch.optim):
        params = leaves(start)
        result.append((getattr(package, name)(params, **options), params))
    return result


def near(ours, theirs, ulps=8):
    for p, q in zip(ours, theirs, strict=True):
        assert_near(p, q, ulps=ulps)


@pytest.mark.parametrize("subject", subjects(in_torch=True))
def test_parameters_without_gradient_stand_still_and_do_not_count(subject):
    subsets = [(1, 1, 0), (1, 0, 0), (0, 1, 0), (0, 0, 0), (1, 1, 1), (0, 1, 1), (1, 0, 1)]
    pairs = twins(subject.name, (3,), (N,), (2, 2))
    for optimizer, params in pairs:
        all_steps = steps(len(subsets), (3,), (N,), (2, 2))
        walk(
            optimizer,
            params,
            [[g if m else None for g, m in zip(gs, mask)] for gs, mask in zip(all_steps, subsets)],
        )
    (ours, params), (_, targets) = pairs
    near(params, targets)
    assert [int(ours.state[p]["step"]) for p in params] == [4, 4, 3]


def test_a_parameter_that_never_had_a_gradient_has_no_state():
    [(optimizer, params), _] = twins("AdamW", (3,), (N,))
    give(params, [normal(3), None])
    optimizer.step()
    assert params[1] not in optimizer.state


def test_step_without_any_gradient_does_nothing():
    [(optimizer, _), _] = twins("AdamW", (3,))
    before = snapshot(optimizer)
    optimizer.step()
    assert_same(optimizer, before)
    assert optimizer.last_step.stepped


def test_data_replaced():
    pairs = twins("AdamW", (N,), lr=0.1)
    for optimizer, params in pairs:
        walk(optimizer, params, steps(2, (N,)))
        params[0].data = normal(N, seed=7)
        walk(optimizer, params, steps(2, (N,), first=3))
    near(pairs[0][1], pairs[1][1])


def test_data_replaced_by_its_own_transpose():
    """The address and the number of elements stay: only the strides tell."""
    pairs = twins("AdamW", (4, 4), lr=0.1)
    for optimizer, params in pairs:
        walk(optimizer, params, steps(2, (4, 4)))
        params[0].data = params[0].data.t()
        walk(optimizer, params, steps(2, (4, 4), first=3))
    near(pairs[0][1], pairs[1][1])


def test_data_replaced_by_another_type_at_the_same_address():
    p = normal(64, dtype=torch.float16).requires_grad_()
    optimizer = gradstep.SGD([p], lr=0.0)
    give([p], [normal(64, dtype=torch.float16)])
    optimizer.step()
    p.grad = None
    p.data = p.data.view(torch.bfloat16)
    before = p.detach().clone()
    p.grad = torch.ones(64, dtype=torch.bfloat16)
    optimizer.param_groups[0]["lr"] = 1.0
    optimizer.step()
    assert_same_bits(p, before - 1)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_model_converted_after_construction_and_in_mid_run(dtype):
    model = torch.nn.Linear(3, 2)
    optimizer = gradstep.AdamW(model.parameters(), lr=0.1)
    for kind in (torch.float32, dtype, dtype, torch.float32):
        model.to(kind)
        before = [p.detach().clone() for p in model.parameters()]
        model(torch.ones(4, 3, dtype=kind)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        for p, old in zip(model.parameters(), before, strict=True):
            assert p.dtype == kind
            # The gradient is constant, so every step is the learning rate long.
            assert ((old - p).float() - 0.1).abs().max() < 0.02


def test_model_converted_to_channels_last_in_mid_run():
    pairs = twins("AdamW", (2, 3, 4, 4), lr=0.1)
    for optimizer, params in pairs:
        walk(optimizer, params, steps(2, (2, 3, 4, 4)))
        params[0].data = params[0].data.to(memory_format=torch.channels_last)
        walk(optimizer, params, steps(2, (2, 3, 4, 4), first=3))
    near(pairs[0][1], pairs[1][1])
    assert pairs[0][1][0].is_contiguous(memory_format=torch.channels_last)


def test_group_added_after_steps():
    pairs = twins("AdamW", (N,), lr=0.1)
    for optimizer, params in pairs:
        walk(optimizer, params, steps(2, (N,)))
        params.append(normal(3, seed=8).requires_grad_())
        optimizer.add_param_group({"params": [params[1]], "lr": 0.5, "betas": (0.5, 0.75)})
        walk(optimizer, params, steps(2, (N,), (3,), first=3))
    (ours, params), (_, targets) = pairs
    near(params, targets)
    assert [int(ours.state[p]["step"]) for p in params] == [4, 2]


@pytest.mark.parametrize("name", ["SGD", "AdamW", "Adagrad", "RMSprop"])
def test_parameter_and_state_replaced_as_gaussian_splatting_does(name):
    """Prune and densify: a new parameter takes the place of the old one and part of its state."""
    options = {"momentum": 0.9} if name in ("SGD", "RMSprop") else {}
    pairs = twins(name, (8, 3), lr=0.1, **options)
    keep = torch.tensor([0, 2, 3, 7])
    for optimizer, params in pairs:
        walk(optimizer, params, steps(3, (8, 3)))
        group = optimizer.param_groups[0]
        old = group["params"][0]
        state = optimizer.state.pop(old)
        for key, value in state.items():
            if torch.is_tensor(value) and value.shape == old.shape:
                state[key] = torch.cat([value[keep], torch.zeros(2, 3)])
        new = torch.nn.Parameter(torch.cat([old.detach()[keep], normal(2, 3, seed=5)]))
        group["params"][0] = params[0] = new
        optimizer.state[new] = state
        walk(optimizer, params, steps(3, (6, 3), first=4))
    near(pairs[0][1], pairs[1][1])


def test_state_tensor_replaced_and_written():
    pairs = twins("AdamW", (N,), lr=0.1)
    for optimizer, params in pairs:
        walk(optimizer, params, steps(2, (N,)))
        state = optimizer.state[params[0]]
        state["exp_avg"] = torch.zeros(N)
        state["exp_avg_sq"].mul_(2)
        state["step"] = torch.tensor(7.0)
        walk(optimizer, params, steps(1, (N,), first=3))
        state["step"].add_(3)
        walk(optimizer, params, steps(1, (N,), first=4))
    near(pairs[0][1], pairs[1][1])
    assert int(pairs[0][0].state[pairs[0][1][0]]["step"]) == 12


def test_state_replaced_by_another_type_or_layout():
    pairs = twins("AdamW", (4, 6), lr=0.1)
    for optimizer, params in pairs:
        walk(optimizer, params, steps(2, (4, 6)))
        state = optimizer.state[params[0]]
        state["exp_avg"] = state["exp_avg"].t().contiguous().t()
        walk(optimizer, params, steps(2, (4, 6), first=3))
    near(pairs[0][1], pairs[1][1])
    (optimizer, params), _ = pairs
    optimizer.state[params[0]]["exp_avg"] = optimizer.state[params[0]]["exp_avg"].double()
    walk(optimizer, params, steps(1, (4, 6), first=5))
    walk(pairs[1][0], pairs[1][1], steps(1, (4, 6), first=5))
    near(pairs[0][1], pairs[1][1])


def test_state_cleared_starts_anew():
    [(optimizer, params), _] = twins("AdamW", (N,), lr=0.1)
    walk(optimizer, params, steps(2, (N,)))
    optimizer.state.clear()
    fresh, _ = trained(gradstep.AdamW, params, steps(1, (N,), first=3), lr=0.1)
    walk(optimizer, params, steps(1, (N,), first=3))
    assert_same(optimizer, fresh)


def test_foreign_keys_in_the_state_are_kept():
    [(optimizer, params), _] = twins("AdamW", (N,))
    optimizer.state[params[0]]["note"] = "mine"
    walk(optimizer, params, steps(2, (N,)))
    assert optimizer.state[params[0]]["note"] == "mine"
    assert int(optimizer.state[params[0]]["step"]) == 2


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("AdamW", {"lr": 0.3, "weight_decay": 0.2, "betas": (0.5, 0.9), "eps": 1e-3}),
        ("AdamW", {"maximize": True}),
        ("SGD", {"lr": 0.3, "momentum": 0.5, "nesterov": True}),
        ("RMSprop", {"alpha": 0.5}),
        ("RAdam", {"decoupled_weight_decay": True, "weight_decay": 0.1}),
    ],
)
def test_settings_changed_between_steps(name, change):
    options = {"momentum": 0.9} if name == "SGD" else {}
    pairs = twins(name, (N,), (3,), lr=0.1, **options)
    for optimizer, params in pairs:
        walk(optimizer, params, steps(2, (N,), (3,)))
        optimizer.param_groups[0].update(change)
        walk(optimizer, params, steps(3, (N,), (3,), first=3))
    near(pairs[0][1], pairs[1][1])


def test_momentum_switched_on_and_off_in_mid_run():
    pairs = twins("SGD", (N,), lr=0.1)
    for optimizer, params in pairs:
        for t, momentum in enumerate([0.0, 0.9, 0.9, 0.0, 0.9]):
            optimizer.param_groups[0]["momentum"] = momentum
            walk(optimizer, params, steps(1, (N,), first=t))
    near(pairs[0][1], pairs[1][1])


def test_amsgrad_switched_on_in_mid_run():
    """Torch fails with a KeyError here; the largest v so far then begins at 0, which is the next v."""
    [(optimizer, [p]), _] = twins("AdamW", (N,), lr=0.1)
    walk(optimizer, [p], steps(2, (N,)))
    optimizer.param_groups[0]["amsgrad"] = True
    walk(optimizer, [p], steps(1, (N,), first=3))
    assert_same_bits(optimizer.state[p]["max_exp_avg_sq"], optimizer.state[p]["exp_avg_sq"])
    _, [q] = trained(gradstep.AdamW, [normal(N, seed=0)], steps(3, (N,)), lr=0.1)
    assert_same_bits(p, q)
    walk(optimizer, [p], [[torch.zeros(N)]])
    assert (optimizer.state[p]["max_exp_avg_sq"] > optimizer.state[p]["exp_avg_sq"]).all()


def test_group_order_changed():
    [(optimizer, params), _] = twins("AdamW", (N,), (3,), lr=0.1)
    optimizer.add_param_group({"params": [normal(2).requires_grad_()], "lr": 0.0})
    params = [p for g in optimizer.param_groups for p in g["params"]]
    walk(optimizer, params, steps(1, (N,), (3,), (2,)))
    frozen = params[2].detach().clone()
    optimizer.param_groups.reverse()
    walk(optimizer, params, steps(1, (N,), (3,), (2,), first=2))
    assert_same_bits(params[2], frozen)
    assert [int(optimizer.state[p]["step"]) for p in params] == [2, 2, 2]


def test_a_million_steps_are_counted():
    [(optimizer, [p]), _] = twins("AdamW", (N,))
    walk(optimizer, [p], steps(1, (N,)))
    optimizer.state[p]["step"].fill_(1_000_000)
    walk(optimizer, [p], steps(1, (N,), first=2))
    assert int(optimizer.state[p]["step"]) == 1_000_001


@pytest.mark.parametrize("engine", ["auto", "eager", "foreach", "reference"])
def test_steps_in_and_out_of_inference_mode(engine):
    """What inference mode makes cannot be written to outside it: state is made as usual, or copied if it was given."""
    p, q = normal(5, seed=0).requires_grad_(), normal(5, seed=0).requires_grad_()
    ours, plain = gradstep.AdamW([p], engine=engine), gradstep.AdamW([q], engine=engine)
    for t in range(4):
        give([p, q], [normal(5, seed=t)] * 2)
        with torch.inference_mode(mode=t % 2 == 0):
            ours.step()
            if t == 2:
                ours.state[p]["exp_avg"] = ours.state[p]["exp_avg"].clone()
        plain.step()
        assert_same_bits(p, q)
    assert int(ours.state[p]["step"]) == 4


def test_a_step_in_a_mode_that_makes_no_memory():
    p = normal(5).requires_grad_()
    optimizer = gradstep.AdamW([p])
    give([p], [normal(5)])
    before = p.detach().clone()
    with FakeTensorMode(allow_non_fake_inputs=True), pytest.raises(RuntimeError):
        optimizer.step()
    assert_same_bits(p, before)
    assert p not in optimizer.state
    optimizer.step()
    assert int(optimizer.state[p]["step"]) == 1

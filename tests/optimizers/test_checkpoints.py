"""State dictionaries: to a fresh object bit for bit, to and from torch's class of the same name, through files."""

import copy
import io

import pytest
import torch
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

import gradstep
from tests.registry import cases, subjects
from tests.training import (
    assert_near,
    assert_same,
    assert_same_bits,
    gradients,
    leaves,
    normal,
    starts,
    trained,
    unchanged,
    walk,
)

SHAPES = [(5,), (3, 4), ()]
STEPS = gradients(8, SHAPES)


def half_way(kind, options):
    return trained(kind, starts(SHAPES), STEPS[:4], **options)


def through_a_file(state_dict):
    file = io.BytesIO()
    torch.save(state_dict, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize(("subject", "options"), cases())
def test_a_fresh_object_resumes_bit_for_bit(subject, options):
    optimizer, params = half_way(subject.optimizer, options)
    state_dict = through_a_file(optimizer.state_dict())
    others = leaves(params)
    other = subject.optimizer(others)  # the settings come from the checkpoint
    other.load_state_dict(state_dict)
    assert_same(other, optimizer)
    for o, ps in ((optimizer, params), (other, others)):
        walk(o, ps, STEPS[4:])
    assert_same(other, optimizer)


@pytest.mark.parametrize("direction", ["to torch", "from torch"])
@pytest.mark.parametrize(("subject", "options"), cases(in_torch=True))
def test_exchange_with_torch(subject, options, direction):
    kinds = [subject.optimizer, subject.torch]
    if direction == "from torch":
        kinds.reverse()
    optimizer, params = half_way(kinds[0], options)
    others = leaves(params)
    other = kinds[1](others)
    other.load_state_dict(through_a_file(optimizer.state_dict()))
    for o, ps in ((optimizer, params), (other, others)):
        walk(o, ps, STEPS[4:])
    for p, q in zip(others, params, strict=True):
        assert_near(p, q, ulps=16)
        for key, value in optimizer.state[q].items():
            if value is not None and not (subject.name == "SGD" and key == "step"):  # torch's SGD does not count
                assert_near(torch.as_tensor(other.state[p][key]), torch.as_tensor(value), ulps=32)


@pytest.mark.parametrize(("subject", "options"), cases(in_torch=True))
def test_the_keys_are_torch_s(subject, options):
    ours, theirs = (half_way(kind, options)[0].state_dict() for kind in (subject.optimizer, subject.torch))
    execution = {"foreach", "fused", "capturable", "differentiable"}
    for mine, other in zip(ours["param_groups"], theirs["param_groups"], strict=True):
        assert mine.keys() <= other.keys() - execution
        # AdamW is Adam with this one on, in torch.
        assert other.keys() - execution - mine.keys() <= {"decoupled_weight_decay"}
        assert mine["params"] == other["params"]
    for key, mine in ours["state"].items():
        other = {n: v for n, v in theirs["state"].get(key, {}).items() if v is not None}
        assert mine.keys() - {"step"} == other.keys() - {"step"}
        for name, value in other.items():
            assert mine[name].shape == value.shape
            assert mine[name].dtype == value.dtype


@pytest.mark.parametrize("subject", subjects())
def test_a_state_dict_is_not_a_view_of_all_scalars(subject):
    """The step counts live in one array; a file must hold each alone, and must not change with the optimizer."""
    shapes = [(2,)] * 200
    optimizer, params = trained(subject.optimizer, starts(shapes), gradients(1, shapes))
    state_dict = optimizer.state_dict()
    sizes = [s["step"].untyped_storage().nbytes() for s in state_dict["state"].values()]
    assert sizes == [4] * 200
    walk(optimizer, params, gradients(1, shapes))
    assert {float(s["step"]) for s in state_dict["state"].values()} == {1.0}


def test_loading_copies():
    optimizer, params = half_way(gradstep.AdamW, {})
    state_dict = optimizer.state_dict()
    others = leaves(params)
    other = gradstep.AdamW(others)
    other.load_state_dict(state_dict)
    kept = copy.deepcopy(state_dict)
    walk(other, others, STEPS[4:])
    for key, entry in state_dict["state"].items():
        for name, value in entry.items():
            assert_same_bits(value, kept["state"][key][name], name)
    assert state_dict["param_groups"] == kept["param_groups"]


def test_foreign_keys_of_groups_are_kept_and_torch_s_ways_of_execution_dropped():
    theirs, _ = half_way(torch.optim.AdamW, {"foreach": True})
    torch.optim.lr_scheduler.LambdaLR(theirs, lambda t: 1.0)
    theirs.param_groups[0]["note"] = "mine"
    optimizer = gradstep.AdamW(leaves(starts(SHAPES)))
    optimizer.load_state_dict(theirs.state_dict())
    group = optimizer.param_groups[0]
    assert group["initial_lr"] == 1e-3
    assert group["note"] == "mine"
    assert not {"foreach", "fused", "capturable", "differentiable"} & group.keys()


def test_the_engine_is_not_in_the_checkpoint():
    optimizer, params = trained(gradstep.AdamW, starts(SHAPES), STEPS[:1], engine="eager")
    assert "engine" not in str(optimizer.state_dict()["param_groups"])
    other = gradstep.AdamW(leaves(params), engine="reference")
    other.load_state_dict(optimizer.state_dict())
    assert {engine for _, engine, _ in other.engines()} == {"reference"}


def test_float32_state_of_a_bfloat16_parameter_stays_float32():
    """torch's own load_state_dict would round it."""
    start = starts(SHAPES, torch.bfloat16)
    optimizer, params = trained(gradstep.AdamW, start, gradients(2, SHAPES, torch.bfloat16))
    other = gradstep.AdamW(leaves(params))
    other.load_state_dict(optimizer.state_dict())
    assert_same(other, optimizer)


def test_an_older_checkpoint_without_a_newer_setting_or_with_plain_numbers():
    optimizer, params = half_way(gradstep.Adam, {"lr": 0.25})
    state_dict = optimizer.state_dict()
    del state_dict["param_groups"][0]["decoupled_weight_decay"]
    for entry in state_dict["state"].values():
        entry["step"] = int(entry["step"])
    others = leaves(params)
    other = gradstep.Adam(others)
    other.load_state_dict(state_dict)
    assert other.param_groups[0]["lr"] == 0.25
    for o, ps in ((optimizer, params), (other, others)):
        walk(o, ps, STEPS[4:])
    assert_same(other, optimizer)


def test_partial_state():
    """Only some parameters had a gradient before the checkpoint."""
    optimizer, params = trained(gradstep.AdamW, starts(SHAPES), [[STEPS[0][0], None, STEPS[0][2]]])
    state_dict = through_a_file(optimizer.state_dict())
    assert sorted(state_dict["state"]) == [0, 2]
    others = leaves(params)
    other = gradstep.AdamW(others)
    other.load_state_dict(state_dict)
    for o, ps in ((optimizer, params), (other, others)):
        walk(o, ps, STEPS[4:])
    assert_same(other, optimizer)


def _fewer_groups(d):
    d["param_groups"] = []


def _fewer_params(d):
    d["param_groups"][0]["params"].pop()


def _other_shape(d):
    d["state"][0]["exp_avg"] = torch.zeros(7)


def _no_state(d):
    del d["state"]


def _bad_lr(d):
    d["param_groups"][0]["lr"] = -1.0


@pytest.mark.parametrize(
    ("spoil", "error", "words"),
    [
        (_fewer_groups, ValueError, "different number of parameter groups"),
        (_fewer_params, ValueError, "doesn't match the size of optimizer's group"),
        (_other_shape, RuntimeError, r"exp_avg .*\(7,\).*\(5,\)"),
        (_no_state, KeyError, "state"),
        (_bad_lr, ValueError, "Invalid learning rate: -1"),
    ],
)
def test_a_bad_checkpoint_changes_nothing(spoil, error, words):
    optimizer, params = half_way(gradstep.AdamW, {"lr": 0.25})
    state_dict = copy.deepcopy(optimizer.state_dict())
    spoil(state_dict)
    with unchanged(optimizer), pytest.raises(error, match=words):
        optimizer.load_state_dict(state_dict)
    assert optimizer.param_groups[0]["lr"] == 0.25
    walk(optimizer, params, STEPS[4:])
    straight, _ = trained(gradstep.AdamW, starts(SHAPES), STEPS, lr=0.25)
    assert_same(optimizer, straight)


def test_a_state_that_is_a_plain_dict_will_do():
    optimizer, params = half_way(gradstep.AdamW, {})
    optimizer.state = {}
    walk(optimizer, params, STEPS[4:])
    fresh = gradstep.AdamW(leaves(params))
    fresh.load_state_dict(optimizer.state_dict())
    assert fresh.state[torch.zeros(1)] == {}  # torch's own is a defaultdict
    assert [int(optimizer.state[p]["step"]) for p in params] == [4, 4, 4]


def test_hooks_of_saving_and_loading():
    optimizer, _ = half_way(gradstep.AdamW, {})
    calls = []
    optimizer.register_state_dict_pre_hook(lambda o: calls.append("save"))
    optimizer.register_state_dict_post_hook(lambda o, d: {**d, "extra": 1})
    optimizer.register_load_state_dict_pre_hook(lambda o, d: calls.append(d["extra"]))
    optimizer.register_load_state_dict_post_hook(lambda o: calls.append("loaded"))
    optimizer.load_state_dict(optimizer.state_dict())
    assert calls == ["save", 1, "loaded"]


@pytest.mark.parametrize("subject", subjects())
def test_distributed_checkpoint_s_state_dict(subject):
    """torch.distributed.checkpoint makes the state by a step with gradients of zero and lr 0, where there is none."""

    def model_and_optimizer():
        torch.manual_seed(0)
        model = torch.nn.Linear(4, 3)
        return model, subject.optimizer(model.parameters(), lr=0.1)

    def step(model, optimizer, t):
        optimizer.zero_grad()
        model(normal(8, 4, seed=t)).square().sum().backward()
        optimizer.step()

    model, optimizer = model_and_optimizer()
    for t in range(3):
        step(model, optimizer, t)
    saved = get_optimizer_state_dict(model, optimizer)
    assert "weight" in saved["state"]

    other_model, other = model_and_optimizer()
    other_model.load_state_dict(model.state_dict())
    set_optimizer_state_dict(other_model, other, saved)
    assert_same(other, optimizer)
    for m, o in ((model, optimizer), (other_model, other)):
        step(m, o, 3)
    assert_same(other, optimizer)


@pytest.mark.parametrize("subject", subjects())
def test_a_step_with_lr_0_and_gradients_of_zero_moves_nothing_and_makes_every_key(subject):
    """What _init_optim_state of distributed checkpoints relies on."""
    start = starts(SHAPES)
    zeros = [torch.zeros_like(t) for t in start]
    optimizer, params = trained(subject.optimizer, start, [zeros], lr=0.0)
    for p, t in zip(params, start, strict=True):
        assert_same_bits(p, t)
        names = {slot.name for slot in subject.rule().slots(p.dim())}
        assert names | {"step"} <= optimizer.state[p].keys()

"""State dictionaries: to a fresh object bit for bit, to and from torch's class of the same name, through files."""

import copy
import io
import itertools
import sys
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.optim import optimizer as torch_optimizer

import gradstep
from gradstep.optimizers import front
from gradstep.optimizers.arguments import build_rule
from tests.registry import SUBJECTS, cases, subjects
from tests.trainers import like_lightning
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


@pytest.mark.parametrize("subject", subjects(in_torch=True))
def test_a_state_dict_holds_the_optimizer_s_own_tensors(subject):
    """Counts and averages go on together, as in torch; and of the counts, which lie in one array, a file holds each."""
    shapes = [(2,)] * 200
    for kind in (subject.optimizer, subject.torch):
        optimizer, params = trained(kind, starts(shapes), gradients(1, shapes))
        state = optimizer.state_dict()["state"]
        counts = [entry["step"] for entry in state.values() if kind is not torch.optim.SGD]
        assert [count.untyped_storage().nbytes() for count in counts] == [4] * len(counts)
        walk(optimizer, params, gradients(1, shapes))
        assert counts == [2.0] * len(counts)
        for key, entry in state.items():
            assert all(value is optimizer.state[params[key]][name] for name, value in entry.items())


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


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("subject", subjects())
def test_distributed_checkpoint_s_state_dict(subject, flat):
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
    options = StateDictOptions(flatten_optimizer_state_dict=flat)
    saved = get_optimizer_state_dict(model, optimizer, options=options)
    assert flat or "weight" in saved["state"]

    other_model, other = model_and_optimizer()
    other_model.load_state_dict(model.state_dict())
    set_optimizer_state_dict(other_model, other, saved, options=options)
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


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_is_not_0(bad):
    """The first step has a learning rate of 0 and gradients of 0 but for one of two parameters."""
    states = []
    for kind in (gradstep.AdamW, torch.optim.AdamW):
        params = [torch.ones(3, requires_grad=True) for _ in range(2)]
        optimizer = kind(params, lr=0.0)
        params[0].grad, params[1].grad = torch.zeros(3), torch.full((3,), bad)
        optimizer.step()
        states.append(optimizer.state[params[1]])
    assert_same_bits(states[0]["exp_avg"], states[1]["exp_avg"])
    assert states[0]["step"] == states[1]["step"] == 1


# -- stored in fewer bits --------------------------------------------------------------------------------------------

LARGE = [(64, 64), (5,), (65, 66)]
LARGE_STEPS = gradients(5, LARGE)


def bf16(tensors):
    return [t.bfloat16() for t in tensors]


@pytest.mark.parametrize("rounding", ["nearest", "stochastic", "24bit", "kahan", "master"])
@pytest.mark.parametrize("state", ["float32", "bfloat16", "8bit"])
@pytest.mark.parametrize("kind", [gradstep.AdamW, gradstep.Lion])
def test_any_storage_resumes_bit_for_bit(kind, state, rounding):
    """The noise goes on as well: the seed is taken from the checkpoint."""
    start = starts(LARGE) if rounding == "nearest" else bf16(starts(LARGE))
    steps = [[g.to(start[0].dtype) for g in grads] for grads in LARGE_STEPS]
    optimizer, params = trained(kind, start, steps[:3], state=state, rounding=rounding, seed=7)
    others = leaves(params)
    other = kind(others, state=state, rounding=rounding, seed=8)
    other.load_state_dict(through_a_file(optimizer.state_dict()))
    assert_same(other, optimizer)
    for o, ps in ((optimizer, params), (other, others)):
        walk(o, ps, steps[3:])
    assert_same(other, optimizer)
    assert other.state_dict()["gradstep"] == optimizer.state_dict()["gradstep"]


@pytest.mark.parametrize("paged", [False, True])
def test_a_load_that_is_interrupted_changes_all_or_nothing(paged):
    """Whatever line of it a signal's handler raises at: state, settings and noise are the old ones or the loaded."""
    size = [(64, 64)]
    steps = gradients(3, size)
    saved = trained(gradstep.AdamW, starts(size), steps[:2], state="8bit", seed=7, lr=0.1)[0].state_dict()
    files = {front.__file__, torch_optimizer.__file__}

    def make():
        return trained(gradstep.AdamW, starts(size), steps[:1], state="8bit", seed=8, lr=0.2, paged=paged)

    def step_and_list(optimizer, params):
        walk(optimizer, params, steps[2:])
        (entry,) = optimizer.state.values()
        return [optimizer.param_groups[0]["lr"], *(t.detach().clone() for t in (*params, *entry.values()))]

    old, loaded = step_and_list(*make()), make()
    loaded[0].load_state_dict(saved)
    new = step_and_list(*loaded)
    outcomes: list[bool] = []
    interrupted = True
    while interrupted:
        optimizer, params = make()
        left, interrupted = len(outcomes), False

        def trace(frame, event, _):
            nonlocal left, interrupted
            if frame.f_code.co_filename not in files:
                return None
            left -= event == "line"
            if left < 0 and not interrupted:
                interrupted = True
                raise KeyboardInterrupt
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            optimizer.load_state_dict(saved)
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(before)
        result = step_and_list(optimizer, params)
        outcomes.append(result[0] == new[0])
        for a, b in zip(result[1:], (new if outcomes[-1] else old)[1:], strict=True):
            assert_same_bits(a, b)
    assert outcomes == sorted(outcomes)  # first the old ones, then the loaded
    assert not outcomes[0]
    assert outcomes[-1]
    assert len(outcomes) > 15


def test_what_a_state_dict_says_of_itself():
    optimizer = gradstep.AdamW(starts(LARGE), state="8bit", seed=2**64 - 1)
    assert through_a_file(optimizer.state_dict())["gradstep"] == {
        "format": 2,
        "version": gradstep.__version__,
        "rule": "AdamW",
        "state": "8bit",
        "rounding": "nearest",
        "seed": 2**64 - 1,
        "noise": "names",
    }


ORDER = ["8bit", "bfloat16", "float32"]


@pytest.mark.parametrize(("old", "new"), list(itertools.product(ORDER, ORDER)))
def test_state_is_widened_and_never_narrowed(old, new):
    """Every 8-bit number is a bfloat16 number, and every bfloat16 number a float32 one."""
    optimizer, params = trained(gradstep.AdamW, starts(LARGE), LARGE_STEPS[:2], state=old)
    other = gradstep.AdamW(leaves(params), state=new)
    saved = optimizer.state_dict()
    if ORDER.index(new) < ORDER.index(old):
        with unchanged(other), pytest.raises(RuntimeError, match=rf"(?s){old}, and here as {new}.*convert_state"):
            other.load_state_dict(saved)
        return
    other.load_state_dict(saved)
    wide = gradstep.convert_state(other.state_dict(), "float32")
    expected = gradstep.convert_state(saved, "float32")
    assert wide.lossless
    for key, entry in expected.state_dict["state"].items():
        assert entry.keys() == wide.state_dict["state"][key].keys()
        for name, value in entry.items():
            assert_same_bits(wide.state_dict["state"][key][name], value, name)


def test_blocks_cut_in_another_order_of_memory_are_refused():
    optimizer, params = trained(gradstep.AdamW, starts(LARGE[:1]), [LARGE_STEPS[0][:1]], state="8bit")
    other = gradstep.AdamW([params[0].detach().t().contiguous().t().requires_grad_()], state="8bit")
    with unchanged(other), pytest.raises(RuntimeError, match="8bit blocks in another order of memory"):
        other.load_state_dict(optimizer.state_dict())
    converted = gradstep.convert_state(optimizer.state_dict(), other)
    other.load_state_dict(converted.state_dict)
    assert other.state[other.param_groups[0]["params"][0]]["exp_avg"].stride() == (1, 64)
    # Each block has other neighbours, but no number here is small enough to be lost beside them.
    assert converted.lossless


def test_state_of_more_precision_than_the_parameter():
    optimizer, params = trained(torch.optim.AdamW, starts(SHAPES, torch.float64), gradients(1, SHAPES, torch.float64))
    other = gradstep.AdamW(leaves([p.float() for p in params]))
    with unchanged(other), pytest.raises(RuntimeError, match="exp_avg is stored as float64, and here as float32"):
        other.load_state_dict(optimizer.state_dict())
    other.load_state_dict(gradstep.convert_state(optimizer.state_dict(), other).state_dict)


@pytest.mark.parametrize(
    ("rounding", "key"), [("24bit", "low_byte"), ("kahan", "kahan_comp"), ("master", "master_param")]
)
def test_what_rounding_keeps_is_not_dropped_silently(rounding, key):
    start, steps = bf16(starts(LARGE)), [bf16(LARGE_STEPS[0])]
    optimizer, params = trained(gradstep.AdamW, start, steps, rounding=rounding)
    other = gradstep.AdamW(leaves(params))
    with unchanged(other), pytest.raises(RuntimeError, match=f"{key} would be dropped.*stored as bfloat16"):
        other.load_state_dict(optimizer.state_dict())
    converted = gradstep.convert_state(optimizer.state_dict(), other)
    other.load_state_dict(converted.state_dict)
    assert [change.after for change in converted.losses] == ["nothing"]
    plain, _ = trained(gradstep.AdamW, start, steps)
    gradstep.AdamW(leaves(params), rounding=rounding).load_state_dict(plain.state_dict())  # nothing is lost that way


def test_a_group_s_own_choice_stays_its_own():
    (large, _, other), steps = starts(LARGE), [[LARGE_STEPS[0][0], LARGE_STEPS[0][2]]]
    optimizer, params = trained(gradstep.AdamW, [large, other], steps, state="8bit")
    first, second = leaves(params)
    wide = gradstep.AdamW([{"params": [first, second], "state": "float32"}], state="8bit")
    wide.load_state_dict(optimizer.state_dict())
    assert wide.param_groups[0]["state"] == "float32"
    assert wide.state[first]["exp_avg"].dtype == torch.float32
    assert "exp_avg_scale" not in wide.state[first]
    plain = gradstep.AdamW(leaves(params))
    plain.load_state_dict(wide.state_dict())
    assert "state" not in plain.param_groups[0]


# -- whose state it is -----------------------------------------------------------------------------------------------

NAMED = {"a.weight": (3, 4), "a.bias": (3,), "b.weight": (4, 3), "c.scale": ()}


def named(names, values):
    return [(name, values[name]) for name in names]


@given(order=st.permutations(list(NAMED)), cut=st.integers(0, 4), wrap=st.sampled_from(["", "module.", "_orig_mod."]))
@settings(max_examples=25)
def test_named_parameters_find_their_state_in_any_order_and_grouping(order, cut, wrap):
    start = dict(zip(NAMED, leaves(starts(list(NAMED.values()))), strict=True))
    optimizer = gradstep.AdamW(named(NAMED, start), lr=0.25)
    walk(optimizer, list(start.values()), gradients(2, list(NAMED.values())))
    others = dict(zip(start, leaves(start.values()), strict=True))
    parts = [part for part in (order[:cut], order[cut:]) if part]
    groups = [{"params": [(wrap + n, p) for n, p in named(part, others)], "lr": 0.5} for part in parts]
    other = gradstep.AdamW(groups)
    other.load_state_dict(through_a_file(optimizer.state_dict()))
    for name, p in others.items():
        for key, value in optimizer.state[start[name]].items():
            assert_same_bits(other.state[p][key], value, f"{key} of {name}")
    # The settings of a group that is the same, whatever its order; else its own.
    assert [g["lr"] for g in other.param_groups] == ([0.25] if len(parts) == 1 else [0.5, 0.5])
    assert [g["param_names"] for g in other.param_groups] == [[wrap + n for n in part] for part in parts]


def test_groups_in_another_order_bring_their_settings():
    start = dict(zip(NAMED, leaves(starts(list(NAMED.values()))), strict=True))
    first, second = named(list(NAMED)[:3], start), named(list(NAMED)[3:], start)
    saved = gradstep.AdamW([{"params": first, "lr": 0.1}, {"params": second, "lr": 0.2}]).state_dict()
    other = gradstep.AdamW([{"params": second}, {"params": first[::-1]}])
    other.load_state_dict(saved)
    assert [g["lr"] for g in other.param_groups] == [0.2, 0.1]


def test_other_names_are_listed():
    start = dict(zip(NAMED, leaves(starts(list(NAMED.values()))), strict=True))
    optimizer = gradstep.AdamW(named(NAMED, start))
    saved = gradstep.AdamW([(name.replace("b.", "d."), p) for name, p in start.items()]).state_dict()
    words = r"(?s)other parameters:\n  missing: b.weight\n  unexpected: d.weight\n.*delete 'param_names'"
    with unchanged(optimizer), pytest.raises(ValueError, match=words):
        optimizer.load_state_dict(saved)
    del saved["param_groups"][0]["param_names"]
    optimizer.load_state_dict(saved)


@pytest.mark.parametrize("names", [None, [], ["x"], [1, 2], 5, [None, "x"]], ids=str)
def test_names_that_are_none(names):
    """What is no list of as many strings names nothing, and the order counts, as in torch."""
    shapes = [(3,), (3,)]
    optimizer, params = trained(gradstep.AdamW, starts(shapes), gradients(1, shapes))
    others = leaves(params)
    other = gradstep.AdamW([("a", others[0]), ("b", others[1])])
    saved = optimizer.state_dict()
    saved["param_groups"][0]["param_names"] = names
    other.load_state_dict(saved)
    assert_same(other, optimizer)
    assert other.param_groups[0]["param_names"] == ["a", "b"]


@pytest.mark.parametrize("twice", [False, True])
def test_without_names_on_one_side_the_order_counts(twice):
    """As in torch; also where a name occurs twice."""
    shapes = [(3,), (3,)]
    optimizer, params = trained(gradstep.AdamW, starts(shapes), gradients(1, shapes))
    others = leaves(params)
    other = gradstep.AdamW([("x" if twice else "y", others[0]), ("x", others[1])])
    saved = optimizer.state_dict()
    if twice:
        saved["param_groups"][0]["param_names"] = ["x", "x"]
    other.load_state_dict(saved)
    assert_same(other, optimizer)


# -- what does not fit -----------------------------------------------------------------------------------------------


def test_the_state_of_another_rule_of_torch_is_refused():
    """Every class of torch.optim in every rule: both are named, and convert_state works where it is offered."""
    offered = set()
    for subject, other in itertools.product([s for s in SUBJECTS if s.torch is not None], SUBJECTS):
        name, new = subject.name, other.name
        if name == new or (name, new) == ("AdamW", "Adam"):  # as in torch, the setting says how Adam decays
            continue
        if "matrix" in (subject.rule.sees, other.rule.sees):  # the parameters are no matrices
            continue
        optimizer, params = half_way(subject.torch, {"lr": 0.25})
        saved = copy.deepcopy(optimizer.state_dict())
        fresh = other.optimizer(leaves(params))
        if name == "Adamax":
            pattern = rf"does not fit {new}|is of another optimizer|eps must be a pair|betas must be 3 numbers"
        else:
            pattern = rf"(is of {name}, and this optimizer is {new}\.)|({name}.*is of another optimizer.*not AdamW)"
            pattern = "is of another optimizer" if (name, new) == ("Adam", "AdamW") else pattern
        with unchanged(fresh), pytest.raises((ValueError, RuntimeError, TypeError), match=pattern) as caught:
            fresh.load_state_dict(saved)
        if "convert_state" in str(caught.value):
            offered.add((name, new))
            fresh.load_state_dict(gradstep.convert_state(saved, fresh, rule=new).state_dict)
            if (name, new) != ("Adam", "AdamW"):
                with pytest.raises(ValueError, match=f"is of {name}"):
                    gradstep.convert_state(saved, fresh)
            for p, q in zip(params, fresh.param_groups[0]["params"], strict=True):
                assert torch.equal(fresh.state[q]["exp_avg"], optimizer.state[p]["exp_avg"])
    alike = {"Adam", "AdamW", "RAdam"}
    assert offered >= set(itertools.permutations(alike, 2)) - {("AdamW", "Adam")}
    assert offered >= set(itertools.product(alike, ["ADOPT", "LaProp"]))
    assert not any("NAdam" in pair for pair in offered)


@pytest.mark.parametrize("group", [{"decoupled_weight_decay": None}, {"decoupled_weight_decay": None, "foreach": None}])
def test_a_checkpoint_of_an_older_torch_loads(group):
    """RAdam of an older torch has the settings of Adamax; a group without any sign of torch is taken as it is."""
    optimizer, params = half_way(torch.optim.RAdam, {})
    saved = copy.deepcopy(optimizer.state_dict())
    for key in group:
        del saved["param_groups"][0][key]
    for kind in (gradstep.RAdam, gradstep.LaProp):
        other = kind(leaves(params))
        other.load_state_dict(saved)
        assert torch.equal(next(iter(other.state.values()))["exp_avg"], saved["state"][0]["exp_avg"])


def test_another_rule_of_ours_is_refused_by_name_though_its_keys_are_the_same():
    optimizer, params = half_way(gradstep.RAdam, {})
    other = gradstep.AdamW(leaves(params))
    with unchanged(other), pytest.raises(ValueError, match=r"is of RAdam, and this optimizer is AdamW.*rule='AdamW'"):
        other.load_state_dict(optimizer.state_dict())
    other.load_state_dict(gradstep.convert_state(optimizer.state_dict(), other, rule="AdamW").state_dict)


def _without_scale(d):
    del d["state"][0]["exp_avg"]["scale"]


def _without_codes(d):
    del d["state"][0]["exp_avg"]["codes"]


def _codes_of_float(d):
    d["state"][0]["exp_avg"]["codes"] = d["state"][0]["exp_avg"]["codes"].float()


def _short_scale(d):
    d["state"][0]["exp_avg"]["scale"] = d["state"][0]["exp_avg"]["scale"][:-1]


def _half_a_state(d):
    del d["state"][2]["exp_avg_sq"]


def _a_number_as_slot(d):
    d["state"][1]["exp_avg"] = 3.0


def _transposed(d):
    d["state"][2]["exp_avg"]["codes"] = d["state"][2]["exp_avg"]["codes"].t()


def _later(d):
    d["gradstep"]["format"] = 99


@pytest.mark.parametrize(
    ("spoil", "error", "words"),
    [
        (_without_scale, RuntimeError, "parameter 0 of group 0: exp_avg_scale is missing"),
        (
            _without_codes,
            TypeError,
            r"exp_avg is a dictionary \(scale: torch.uint8\), but must be a tensor, or uint8 codes",
        ),
        (_codes_of_float, TypeError, r"exp_avg is a dictionary \(codes: torch.float32, scale: torch.uint8\), but must"),
        (_short_scale, RuntimeError, r"exp_avg_scale has shape \(15,\), but must have \(16,\)"),
        (_half_a_state, RuntimeError, "parameter 2 of group 0: exp_avg_sq is missing"),
        (_a_number_as_slot, TypeError, "parameter 1 of group 0: exp_avg is 3.0, but must be a tensor"),
        (_transposed, RuntimeError, r"exp_avg has shape \(66, 65\), but must have \(65, 66\)"),
        (_later, ValueError, "in format 99.*update gradstep"),
    ],
)
def test_a_spoiled_8bit_checkpoint_changes_nothing(spoil, error, words):
    optimizer, _ = trained(gradstep.AdamW, starts(LARGE), LARGE_STEPS[:2], state="8bit")
    saved = copy.deepcopy(optimizer.state_dict())
    spoil(saved)
    with unchanged(optimizer), pytest.raises(error, match=words):
        optimizer.load_state_dict(saved)


def test_a_long_difference_is_cut():
    shapes = [(3,)] * 100
    optimizer, params = trained(torch.optim.SGD, starts(shapes), gradients(1, shapes), momentum=0.9)
    saved = optimizer.state_dict()
    saved["param_groups"] = [{"params": saved["param_groups"][0]["params"]}]  # so that it may be of any rule
    with pytest.raises(RuntimeError, match="… and 288 more") as caught:
        gradstep.AdamW(leaves(params)).load_state_dict(saved)
    assert len(str(caught.value)) < 1500


def test_a_fresh_optimizer_s_checkpoint_loads():
    optimizer, params = half_way(gradstep.AdamW, {})
    optimizer.load_state_dict(gradstep.AdamW(leaves(params), lr=0.5).state_dict())
    assert not any(optimizer.state.get(p) for p in params)
    assert optimizer.param_groups[0]["lr"] == 0.5


def test_a_momentum_that_begins_after_the_checkpoint():
    """SGD without momentum counts its steps and keeps nothing else."""
    optimizer, params = half_way(gradstep.SGD, {})
    saved = optimizer.state_dict()
    saved["param_groups"][0]["momentum"] = 0.9
    other = gradstep.SGD(leaves(params))
    other.load_state_dict(saved)
    walk(other, [p for g in other.param_groups for p in g["params"]], STEPS[4:5])


def test_keys_of_somebody_else_pass_through_our_own_checkpoint():
    optimizer, params = half_way(gradstep.AdamW, {})
    optimizer.state[params[0]]["theirs"] = torch.ones(2)
    other = gradstep.AdamW(leaves(params))
    other.load_state_dict(through_a_file(optimizer.state_dict()))
    assert_same(other, optimizer)


MOMENTS = [
    ("AdamW", {}),
    ("AdamW", {"amsgrad": True}),
    ("AdamW", {"foreach": True}),
    ("AdamW", {"fused": True}),
    *[(name, {}) for name in ("Adam", "NAdam", "RAdam", "Adamax", "Adagrad", "Adadelta", "RMSprop")],
    ("SGD", {"momentum": 0.9}),
]


@pytest.mark.parametrize(("name", "options"), MOMENTS)
def test_torch_does_not_take_codes_for_values(name, options):
    """Its load_state_dict casts codes to float32; its step finds a dictionary in place of a moment, and raises."""
    p = normal(64, 64).requires_grad_()
    p.grad = torch.ones_like(p)
    settings = {key: value for key, value in options.items() if key not in ("foreach", "fused")}
    ours: Any = getattr(gradstep, name)([p], state="8bit", **settings)
    ours.step()
    theirs = getattr(torch.optim, name)([p], **options)
    theirs.load_state_dict(ours.state_dict())
    with pytest.raises((TypeError, AttributeError), match="dict"):
        theirs.step()


def _in_format_1(saved):
    """The checkpoint with the arrays of 8-bit slots side by side, as format 1 has them."""
    saved = copy.deepcopy(saved)
    saved["gradstep"]["format"] = 1
    for entry in saved["state"].values():
        for name in [name for name, value in entry.items() if isinstance(value, dict)]:
            fields = entry.pop(name)
            entry |= {f"{name}_codes": fields["codes"], f"{name}_scale": fields["scale"]}
    return saved


@pytest.mark.parametrize("kind", [gradstep.AdamW, gradstep.NAdam])
def test_a_checkpoint_of_format_1_goes_on_bit_for_bit(kind):
    optimizer, params = trained(kind, starts(LARGE), LARGE_STEPS[:3], state="8bit", seed=7)
    old, others = _in_format_1(optimizer.state_dict()), [leaves(params), leaves(params)]
    assert {"exp_avg_codes", "exp_avg_sq_scale"} <= old["state"][0].keys()
    one, two = (kind(ps, state="8bit") for ps in others)
    one.load_state_dict(through_a_file(old))
    two.load_state_dict(gradstep.convert_state(old, two).state_dict)
    for o, ps in ((optimizer, params), (one, others[0]), (two, others[1])):
        walk(o, ps, LARGE_STEPS[3:])
    assert_same(one, optimizer)
    assert_same(two, optimizer)


def test_a_slot_that_is_there_twice_is_refused():
    """torch merges a whole state dict of other keys with that of the optimizer, whose numbers would be taken."""
    optimizer, params = trained(gradstep.AdamW, starts(LARGE), LARGE_STEPS[:2], state="8bit")
    saved, old = optimizer.state_dict(), _in_format_1(optimizer.state_dict())
    for first, second in ((saved, old), (old, saved)):
        state = {key: {**first["state"][key], **second["state"][key]} for key in saved["state"]}
        other = gradstep.AdamW(leaves(params), state="8bit")
        with (
            unchanged(other),
            pytest.raises(RuntimeError, match=r"exp_avg.* twice: torch has merged"),
        ):
            other.load_state_dict({**saved, "state": state})


def test_arrays_that_torch_did_not_find():
    """For a key that a flattened checkpoint does not have, torch puts an empty dictionary."""
    optimizer, params = trained(gradstep.AdamW, starts(LARGE), LARGE_STEPS[:2], state="8bit")
    others = leaves(params)
    other = gradstep.AdamW(others, state="8bit")
    saved = copy.deepcopy(optimizer.state_dict())
    for entry in saved["state"].values():
        entry |= {"exp_avg_scale": {}, "exp_avg_sq_scale": {}}  # the optimizer has these; they are in exp_avg here
    other.load_state_dict(saved)
    assert_same(other, optimizer)
    saved["state"][0] |= {"exp_avg": {}, "step": {}}
    with unchanged(other), pytest.raises(RuntimeError, match="has no exp_avg, exp_avg_scale, step of 0, which torch"):
        other.load_state_dict(saved)


# -- what makes a class what it is ------------------------------------------------------------------------------------


def test_adam_does_not_become_adamw_without_a_word():
    """torch.optim.AdamW takes Adam's averages, with L2's part in them, and goes on with decay on the weight."""
    optimizer, params = half_way(torch.optim.Adam, {"weight_decay": 0.5})
    other = gradstep.AdamW(leaves(params))
    with (
        unchanged(other),
        pytest.raises(ValueError, match=r"another optimizer.*decoupled_weight_decay=False is not AdamW.*convert_state"),
    ):
        other.load_state_dict(optimizer.state_dict())


def test_adam_s_averages_declared_to_be_adamw_s():
    """As torch.optim.AdamW takes them, which says so to nobody."""
    optimizer, params = half_way(torch.optim.Adam, {"weight_decay": 0.5})
    saved = copy.deepcopy(optimizer.state_dict())
    others = [leaves(params), leaves(params)]
    ours, theirs = gradstep.AdamW(others[0]), torch.optim.AdamW(others[1])
    ours.load_state_dict(gradstep.convert_state(saved, ours, rule="AdamW").state_dict)
    theirs.load_state_dict(copy.deepcopy(saved))  # torch keeps the very tensors, and its step changes them
    assert ours.param_groups[0]["decoupled_weight_decay"] is True
    for o, ps in zip((ours, theirs), others, strict=True):
        walk(o, ps, STEPS[4:])
    for p, q in zip(*others, strict=True):
        assert_near(p, q, ulps=16)


@pytest.mark.parametrize("name", ["Adam", "NAdam", "RAdam"])
@pytest.mark.parametrize("decoupled", [False, True])
def test_where_decoupled_decay_is_a_setting_the_checkpoint_s_counts(name, decoupled):
    """As in torch: it says how its averages were made."""
    settings = {"weight_decay": 0.5, "lr": 0.1}
    optimizer, params = half_way(getattr(torch.optim, name), {**settings, "decoupled_weight_decay": decoupled})
    saved = copy.deepcopy(optimizer.state_dict())
    others = [leaves(params), leaves(params)]
    for o, ps in zip((getattr(gradstep, name)(others[0]), getattr(torch.optim, name)(others[1])), others, strict=True):
        o.load_state_dict(copy.deepcopy(saved))
        assert o.param_groups[0]["decoupled_weight_decay"] is decoupled
        walk(o, ps, STEPS[4:])
    for p, q in zip(*others, strict=True):
        assert_near(p, q, ulps=32)


def test_groups_of_adamw_have_the_kind_of_decay_as_in_torch():
    """torch.optim.Adam takes a group that says nothing for one of L2, and a flattened distributed checkpoint reads the
    keys of live groups. Where the state has a part of the parameters the key is missing, so that an optimizer that
    would lose this part finds it missing."""
    p, half = normal(3).requires_grad_(), normal(3).bfloat16().requires_grad_()
    for optimizer in (gradstep.AdamW([p]), gradstep.AdamW([half], rounding="stochastic"), gradstep.Adam([p])):
        expected = torch.optim.AdamW if type(optimizer) is gradstep.AdamW else torch.optim.Adam
        theirs = expected([p]).param_groups[0]["decoupled_weight_decay"]
        for group in (optimizer.param_groups[0], optimizer.state_dict()["param_groups"][0]):
            assert group["decoupled_weight_decay"] is theirs
    parted = gradstep.AdamW([{"params": [half]}, {"params": [p]}], rounding="kahan")
    parted.load_state_dict(parted.state_dict())
    assert ["decoupled_weight_decay" in group for group in parted.param_groups] == [False, True]


def test_a_group_cannot_make_adam_of_adamw():
    """torch.optim.AdamW becomes Adam by this, without a word."""
    p = normal(3).requires_grad_()
    with pytest.raises(ValueError, match="decoupled_weight_decay=False is not AdamW"):
        gradstep.AdamW([{"params": [p], "decoupled_weight_decay": False}])
    optimizer = gradstep.AdamW([p])
    p.grad = torch.ones(3)
    optimizer.step()
    optimizer.param_groups[0]["decoupled_weight_decay"] = False
    with unchanged(optimizer), pytest.raises(ValueError, match="decoupled_weight_decay=False is not AdamW"):
        optimizer.step()


# -- what somebody else keeps in the state ----------------------------------------------------------------------------


def test_a_foreign_entry_is_carried_as_in_torch():
    """Any key that is no parameter, any value, also one that looks like a parameter's entry; the object itself."""
    codes = {"m": torch.ones(3, dtype=torch.uint8), "m_scale": torch.ones(1, dtype=torch.uint8)}
    foreign = {"ema": 1, "nothing": None, "empty": {}, "zero": 0, ("a", 2): [1, 2], 99: object(), "codes": codes}
    saved, loaded = [], []
    for kind in (torch.optim.AdamW, gradstep.AdamW):
        optimizer, params = half_way(kind, {})
        optimizer.state.update(foreign)
        walk(optimizer, params, STEPS[4:5])
        saved.append(optimizer.state_dict()["state"])
        other = kind(leaves(params))
        other.load_state_dict(optimizer.state_dict())
        walk(other, [p for g in other.param_groups for p in g["params"]], STEPS[4:5])
        loaded.append(other.state)
    for found in (*saved, *loaded):
        assert {key: value for key, value in found.items() if key in foreign} == foreign
        assert found["codes"] is codes


def test_a_foreign_entry_passes_a_conversion():
    optimizer, _ = half_way(gradstep.AdamW, {})
    optimizer.state["ema"] = 1
    other = gradstep.AdamW([p for g in optimizer.param_groups for p in g["params"]], state="bfloat16")
    assert gradstep.convert_state(optimizer.state_dict(), other).state_dict["state"]["ema"] == 1


@pytest.mark.parametrize(
    ("spoil", "error", "words"),
    [
        (lambda d: d.update(state=[]), TypeError, "'state' .* must be a dictionary, but is a list"),
        (lambda d: d.update(param_groups=None), TypeError, "'param_groups' .* must be a list of dictionaries"),
        (lambda d: d["param_groups"][0].pop("params"), KeyError, "'params' is missing in group 0"),
        (
            lambda d: d["param_groups"][0].update(params=[[]]),
            TypeError,
            "'params' in group 0 .* list of the",
        ),
        (lambda d: d.update(gradstep=5), ValueError, "'gradstep' .* is not what gradstep writes there"),
        (lambda d: d["gradstep"].pop("rule"), ValueError, "'gradstep' .* is not what gradstep writes there"),
        (lambda d: d["gradstep"].update(rule=["AdamW"]), ValueError, "'gradstep' .* is not what gradstep writes there"),
        (lambda d: d["gradstep"].update(seed="x"), TypeError, "seed must be a whole number, but is 'x'"),
        (lambda d: d["state"].update({0: 5}), TypeError, "under 0 is 5, but must be a dictionary"),
        (lambda d: d["param_groups"][0].update(lr=-1.0), ValueError, "Invalid learning rate"),
    ],
)
def test_what_is_not_built_as_a_checkpoint(spoil, error, words):
    optimizer, _ = half_way(gradstep.AdamW, {})
    saved = copy.deepcopy(optimizer.state_dict())
    spoil(saved)
    with unchanged(optimizer), pytest.raises(error, match=words):
        optimizer.load_state_dict(saved)


# -- loading in part, and remedies that work ---------------------------------------------------------------------------


def layers(*sizes, names=True, kind=gradstep.AdamW, steps=1, **options):
    """Linear layers of these sizes, without biases, whose optimizer has made some steps."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(*(torch.nn.Linear(a, b, bias=False) for a, b in itertools.pairwise(sizes)))
    optimizer = kind(model.named_parameters() if names else model.parameters(), lr=0.5, **options)
    for _ in range(steps):
        for p in model.parameters():
            p.grad = torch.ones_like(p)
        optimizer.step()
    return model, optimizer


def test_what_matches_by_name_and_shape_is_loaded_and_the_rest_listed():
    """Layer 1 has another width on the way out, and layer 2 is new; layer 0 takes its state."""
    old, saved = layers(3, 4, 2)
    model, optimizer = layers(3, 4, 5, 6, steps=3)
    report = optimizer.load_state_dict(saved.state_dict(), strict=False)
    assert report is not None
    assert report.loaded == ("0.weight",)
    assert report.left_out == {
        "1.weight": "exp_avg has shape (2, 4), but must have (5, 4); exp_avg_sq has shape (2, 4), but must have (5, 4)",
        "2.weight": "not in the checkpoint",
    }
    assert_same_bits(optimizer.state[model[0].weight]["exp_avg"], saved.state[old[0].weight]["exp_avg"], "exp_avg")
    assert set(optimizer.state) == {model[0].weight}
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    assert [float(optimizer.state[p]["step"]) for p in model.parameters()] == [2, 1, 1]
    assert layers(3, 4)[1].load_state_dict(saved.state_dict(), strict=False).left_out == {
        "1.weight": "in the checkpoint only"
    }


def test_settings_are_taken_from_groups_that_hold_the_same_names():
    _, saved = layers(3, 4, 2)
    saved.param_groups[0]["lr"] = 0.25
    for sizes, lr in (((3, 4, 7), 0.25), ((3, 4, 2, 2), 0.5)):
        _, optimizer = layers(*sizes)
        optimizer.load_state_dict(saved.state_dict(), strict=False)
        assert optimizer.param_groups[0]["lr"] == lr


def test_without_names_the_order_counts_only_where_the_groups_are_as_long():
    _, saved = layers(3, 4, 2, names=False)
    _, optimizer = layers(3, 4, 5)
    assert optimizer.load_state_dict(saved.state_dict(), strict=False).loaded == ("0.weight",)
    _, optimizer = layers(3, 4, 2, 2)
    state = saved.state_dict()
    with unchanged(optimizer), pytest.raises(ValueError, match="to go by name instead, make the optimizer with names"):
        optimizer.load_state_dict(state, strict=False)
    state["param_groups"][0]["param_names"] = ["0.weight", "1.weight"]  # the remedy
    assert optimizer.load_state_dict(state, strict=False).loaded == ("0.weight", "1.weight")


@pytest.mark.parametrize(
    ("damage", "error"),
    [({"step": torch.tensor(-1.0)}, ValueError), ({"exp_avg": 3}, TypeError)],
)
def test_a_damaged_number_is_refused_also_when_loading_in_part(damage, error):
    _, saved = layers(3, 4)
    state = saved.state_dict()
    state["state"][0] |= damage
    _, optimizer = layers(3, 4, 2)
    with unchanged(optimizer), pytest.raises(error, match="does not fit AdamW"):
        optimizer.load_state_dict(state, strict=False)


def test_loading_in_part_rounds_nothing_and_its_remedy_works():
    _, saved = layers(80, 80)
    model, optimizer = layers(80, 80, 80, state="8bit")
    with pytest.raises(RuntimeError, match=r"convert_state\(state_dict, '8bit'\) rounds it") as caught:
        optimizer.load_state_dict(saved.state_dict(), strict=False)
    assert "0.weight: exp_avg is stored as float32, and here as 8bit" in str(caught.value)
    converted = gradstep.convert_state(saved.state_dict(), "8bit").state_dict
    assert optimizer.load_state_dict(converted, strict=False).loaded == ("0.weight",)
    assert optimizer.state[model[0].weight]["exp_avg"].dtype == torch.uint8


def test_the_remedies_for_other_names_work():
    _, saved = layers(3, 4, 2)
    _, more = layers(3, 4, 2, 2)
    with pytest.raises(ValueError, match=r"missing: 2.weight\nload_state_dict\(state_dict, strict=False\) [^;]*$"):
        more.load_state_dict(saved.state_dict())
    torch.manual_seed(0)
    renamed = torch.nn.ModuleDict({"a": torch.nn.Linear(3, 4, bias=False), "b": torch.nn.Linear(4, 2, bias=False)})
    optimizer = gradstep.AdamW(renamed.named_parameters())
    state = saved.state_dict()
    with pytest.raises(ValueError, match=r"weight\nif only the names differ, delete 'param_names'"):
        optimizer.load_state_dict(state)
    del state["param_groups"][0]["param_names"]
    optimizer.load_state_dict(state)
    assert set(optimizer.state) == set(renamed.parameters())
    with pytest.raises(ValueError, match=r"weight\nMake the optimizer of the model that was saved, or begin"):
        gradstep.AdamW([("c", torch.zeros(2, requires_grad=True))]).load_state_dict(saved.state_dict())


@pytest.mark.parametrize(
    ("one", "other", "works"),
    [
        (gradstep.Adam, gradstep.AdamW, True),
        (gradstep.AdamW, gradstep.Lion, False),
        (gradstep.SGD, gradstep.Lion, False),
        (gradstep.NAdam, gradstep.RAdam, False),
        (gradstep.RAdam, gradstep.NAdam, False),
    ],
)
def test_the_remedy_for_another_rule_is_offered_where_it_works(one, other, works):
    _, saved = layers(3, 4, kind=one)
    _, optimizer = layers(3, 4, kind=other)
    words = "load gradstep.convert_state" if works else f"keep other averages: load it into {one.__name__}, or begin"
    with pytest.raises(ValueError, match=words):
        optimizer.load_state_dict(saved.state_dict())
    if works:
        converted = gradstep.convert_state(saved.state_dict(), optimizer, rule=other.__name__).state_dict
        optimizer.load_state_dict(converted)
        assert_same(optimizer, optimizer)


def test_through_lightning_s_wrapper_the_inner_optimizer_is_saved_and_loaded():
    """It takes over the class; settings and state are the inner's."""
    _, optimizer = layers(80, 80, state="8bit")
    wrapped = like_lightning(optimizer)
    assert str(wrapped.state_dict()) == str(optimizer.state_dict())
    assert str(wrapped.state_summary()) == str(optimizer.state_summary())
    assert wrapped.engines() == optimizer.engines()
    assert wrapped.state_dict()["gradstep"]["state"] == "8bit"
    report = wrapped.load_state_dict(optimizer.state_dict(), strict=False)
    assert report.loaded == ("0.weight",)
    optimizer.load_state_dict({**optimizer.state_dict(), "gradstep": {**wrapped.state_dict()["gradstep"], "seed": 7}})
    assert wrapped.state_dict()["gradstep"]["seed"] == 7


def test_bias_correction_is_said_only_where_it_is_off():
    """A state dict without it is torch's, which always corrects, so loading one switches the correction on."""
    p = torch.nn.Parameter(torch.ones(2))
    p.grad = torch.ones(2)
    off, on = (gradstep.Adam([p], bias_correction=corrects) for corrects in (False, True))
    off.step()
    assert off.state_dict()["param_groups"][0]["bias_correction"] is False
    assert "bias_correction" not in on.state_dict()["param_groups"][0]
    on.load_state_dict(off.state_dict())
    assert on.param_groups[0]["bias_correction"] is False
    plain = torch.optim.Adam([p])
    off.load_state_dict(plain.state_dict())
    assert "bias_correction" not in off.param_groups[0]
    rule = build_rule(gradstep.rules.Adam, off.param_groups[0])
    assert isinstance(rule, gradstep.rules.Adam)
    assert rule.bias_correction
    plain.load_state_dict(gradstep.Adam([p]).state_dict())
    assert "bias_correction" not in plain.param_groups[0]


def test_flat_state_of_torch_s_adamw_is_loaded():
    """Distributed checkpoints read every key of a group: it must have none that torch did not write."""
    options = StateDictOptions(flatten_optimizer_state_dict=True)
    model, other = torch.nn.Linear(4, 3), torch.nn.Linear(4, 3)
    theirs, ours = torch.optim.AdamW(model.parameters()), gradstep.AdamW(other.parameters())
    model(torch.ones(2, 4)).sum().backward()
    theirs.step()
    set_optimizer_state_dict(other, ours, get_optimizer_state_dict(model, theirs, options=options), options=options)
    assert_same_bits(ours.state[other.weight]["exp_avg"], theirs.state[model.weight]["exp_avg"])

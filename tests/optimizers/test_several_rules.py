"""One optimizer with groups of several rules: bit for bit what an optimizer for each group computes."""

import copy
import math
import pickle
from dataclasses import dataclass
from typing import Any

import pytest
import torch

import gradstep
from gradstep.rules.settings import learning_rate
from tests.training import assert_same, assert_same_bits, give, gradients, leaves, snapshot, starts, walk

SHAPES = [(80, 64), (7,), (3, 40, 50), (64, 65)]
"""Two parameters large enough for 8 bits, in groups of their own rules."""

RULES: list[tuple[str, dict[str, Any]]] = [
    ("Lion", {"lr": 1e-3, "weight_decay": 0.1}),
    ("NAdam", {"lr": 0.01}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.5}),
    ("AdamW", {"lr": 0.02, "betas": (0.5, 0.75)}),
]
"""One group of each, with settings that the others do not have; NAdam also has a number per parameter."""


def groups_of(params, rules=RULES):
    """A group of one named parameter for each rule."""
    return [
        {"params": [(f"weight {i}", p)], "rule": rule, **settings}
        for i, (p, (rule, settings)) in enumerate(zip(params, rules, strict=True))
    ]


def pair(start, rules=RULES, **options):
    """One optimizer of several rules, and optimizers of one rule each, for equal parameters."""
    ones, others = leaves(start), leaves(start)
    one = gradstep.AdamW(groups_of(ones, rules), **options)
    each = [getattr(gradstep, group.pop("rule"))([group], **options) for group in groups_of(others, rules)]
    return one, ones, each, others


def assert_same_each(one, each):
    """The parameters and states of one optimizer are those of several."""
    found, at = snapshot_by_parameter(one), 0
    for optimizer in each:
        for expected in snapshot_by_parameter(optimizer):
            assert found[at].keys() == expected.keys()
            for name, value in expected.items():
                assert_same_bits(found[at][name], value, f"{name} of parameter {at}")
            at += 1
    assert at == len(found)


def take_same_step(one, ones, each, others, grads):
    """Step the optimizer of several rules, and as many optimizers of one rule each, with the same gradients."""
    give(ones, grads)
    give(others, grads)
    one.step()
    for optimizer in each:
        optimizer.step()


def snapshot_by_parameter(optimizer):
    params = [p for group in optimizer.param_groups for p in group["params"]]
    return [{"parameter": p.detach(), **optimizer.state[p]} for p in params]


@pytest.mark.parametrize("engine", ["fused", "foreach", "eager", "reference"])
@pytest.mark.parametrize(
    ("dtype", "options"),
    [
        (torch.float32, {}),
        (torch.float32, {"state": "bfloat16"}),
        (torch.float32, {"state": "8bit"}),
        (torch.float32, {"paged": True, "page_budget": "100kB"}),
        (torch.float32, {"paged": True, "state": "8bit"}),
        (torch.float64, {}),
        (torch.bfloat16, {"rounding": "stochastic"}),
        (torch.bfloat16, {"rounding": "kahan", "state": "8bit"}),
        (torch.float16, {"rounding": "master"}),
    ],
    ids=lambda x: "-".join(map(str, x.values())) or "plain" if isinstance(x, dict) else str(x).partition(".")[2],
)
def test_several_rules_are_as_many_optimizers(engine, dtype, options):
    one, ones, each, others = pair(starts(SHAPES, dtype), engine=engine, **options)
    for grads in gradients(3, SHAPES, dtype):
        take_same_step(one, ones, each, others, grads)
        assert_same_each(one, each)
    assert [choice[1:] for choice in one.engines()] == [choice[1:] for o in each for choice in o.engines()]
    assert one.state_summary().rows == tuple(row for o in each for row in o.state_summary().rows)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_several_rules_compiled():
    test_several_rules_are_as_many_optimizers("compiled", torch.float32, {})


@pytest.mark.parametrize(
    "other", [("Adafactor", {"lr": 0.01}), ("Muon", {"lr": 0.02, "matrices": "stack"})], ids=["Adafactor", "Muon"]
)
def test_a_rule_of_whole_tensors_beside_others(other):
    """A rule that the kernel does not take, in a group of an optimizer that it serves otherwise."""
    rules = [*RULES[:2], other, RULES[3]]
    one, ones, each, others = pair(starts(SHAPES), rules)
    for grads in gradients(3, SHAPES):
        take_same_step(one, ones, each, others, grads)
    assert_same_each(one, each)
    assert [engine for _, engine, _ in one.engines()] == ["fused", "fused", "eager", "fused"]


@pytest.mark.parametrize("skipped", range(4))
def test_a_parameter_without_gradient_stays_behind_alone(skipped):
    one, ones, each, others = pair(starts(SHAPES))
    for step, grads in enumerate(gradients(3, SHAPES)):
        present = [None if i == skipped and step == 1 else g for i, g in enumerate(grads)]
        give(ones, present)
        give(others, present)
        one.step()
        for optimizer in each:
            optimizer.step()
    assert_same_each(one, each)


def test_one_norm_clips_all_rules():
    """The norm is that of all gradients, the factor the same for every rule."""
    one, ones, each, others = pair(starts(SHAPES))
    for grads in gradients(3, SHAPES):
        give(ones, grads)
        one.step(max_grad_norm=0.5)
        expected = math.sqrt(sum(float(g.double().square().sum()) for g in grads))
        assert one.last_step.grad_norm == pytest.approx(expected, rel=1e-12)
        give(others, [g * one.last_step.clip for g in grads])
        for optimizer in each:
            optimizer.step()
    for a, b in zip(ones, others, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        ones[2].grad.view(-1)[5] = math.inf
    before = snapshot(one)
    one.step(max_grad_norm=0.5)
    assert not one.last_step.stepped
    assert "weight 2" in one.last_step.reason
    assert_same(one, before)


# -- groups -----------------------------------------------------------------------------------------------------------


def test_a_group_has_the_settings_of_its_rule_only():
    p, q = leaves([torch.ones(3), torch.ones(3)])
    groups: list[dict[str, Any]] = [{"params": [p], "rule": "SGD", "lr": 0.1}, {"params": [q]}]
    optimizer = gradstep.AdamW(groups, weight_decay=0.3)
    own, other = ({key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups)
    assert own == {
        "rule": "SGD", "lr": 0.1, "momentum": 0.0, "dampening": 0.0, "weight_decay": 0.0, "nesterov": False,
        "maximize": False,
    }  # fmt: skip
    assert other == {
        "lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.3, "amsgrad": False, "maximize": False,
        "decoupled_weight_decay": True,
    }  # fmt: skip


def test_whether_to_climb_belongs_to_the_loss():
    (p,) = leaves([torch.ones(3)])
    optimizer = gradstep.AdamW([{"params": [p], "rule": "SGD", "lr": 0.5}], maximize=True)
    p.grad = torch.ones(3)
    optimizer.step()
    assert p.tolist() == [1.5] * 3


@dataclass(frozen=True)
class Climb(gradstep.Rule):
    """p + lr · g · scale."""

    scale: float = gradstep.rules.settings.real(2.0)
    lr: float = learning_rate(0.5)

    def coefficients(self, step, **scalars):
        return {"rate": self.lr * self.scale}

    @staticmethod
    def update(p, g, s, c):
        return p + c.rate * g


def test_an_optimizer_tells_the_rule_of_each_group():
    optimizer = gradstep.AdamW(groups_of(leaves(starts(SHAPES))))
    optimizer.add_param_group({"params": [("a", torch.zeros(3))], "rule": Climb, "lr": 0.1})
    optimizer.add_param_group({"params": [("b", torch.zeros(3))]})
    rules = [optimizer.rule_of(group) for group in optimizer.param_groups]
    assert [rule.__name__ for rule in rules] == ["Lion", "NAdam", "SGD", "AdamW", "Climb", "AdamW"]
    assert rules[4] is Climb


@pytest.mark.parametrize(
    ("rule", "name", "state"),
    [
        ("Lion", "Lion", None),
        ("lion", "Lion", None),
        ("sgd", "SGD", None),
        ("nadam_bnb_8bit", "NAdam", "8bit"),
        ("Lion8bit", "Lion", "8bit"),
        (gradstep.Lion8bit, "Lion", "8bit"),
        (gradstep.SGD, "SGD", None),
        (gradstep.rules.Lion, "Lion", None),
        (Climb, "Climb", None),
        (gradstep.optimizer(Climb), "Climb", None),
        ("AdamW", None, None),
        ("adamw_8bit", None, "8bit"),
        (gradstep.AdamW, None, None),
        (gradstep.rules.AdamW, None, None),
    ],
)
def test_the_ways_to_name_a_rule(rule, name, state):
    """A group of the optimizer's own rule is a usual group."""
    (p,) = leaves([torch.ones(80, 80)])
    group = gradstep.AdamW([{"params": [p], "rule": rule, "lr": 0.1}]).param_groups[0]
    assert group.get("rule") == name
    assert group.get("state") == state


def test_a_group_s_own_precision_goes_before_that_of_a_name():
    (p,) = leaves([torch.ones(80, 80)])
    group = {"params": [p], "rule": "lion_8bit", "lr": 0.1, "state": "bfloat16"}
    assert gradstep.AdamW([group]).param_groups[0]["state"] == "bfloat16"


@pytest.mark.parametrize(
    ("group", "error", "words"),
    [
        ({"rule": "Lion"}, ValueError, r"rule='Lion' needs its own 'lr' \(Lion's default is 0.0001\): AdamW's is of"),
        ({"rule": "Lyon", "lr": 1}, ValueError, "Unknown optimizer: 'Lyon'. Did you mean 'lion'"),
        ({"rule": "Mine", "lr": 1}, ValueError, "Unknown optimizer: 'Mine'.*a rule of your own is given as its class"),
        ({"rule": 3, "lr": 1}, TypeError, "a group's 'rule' must be a name such as 'Lion', a gradstep optimizer, or a"),
        ({"rule": torch.optim.SGD, "lr": 1}, TypeError, "subclass of gradstep.Rule, not <class 'torch"),
        ({"rule": gradstep.Rule, "lr": 1}, TypeError, "Rule is not finished: write coefficients, update"),
        ({"rule": "Lion", "lr": 1, "eps": 1e-8}, TypeError, r"Lion has no setting 'eps' \(it has lr, betas, weight"),
        ({"rule": "Lion", "lr": 1, "momentum": 0.9}, TypeError, "Lion has no setting 'momentum'"),
        ({"rule": "Lion", "lr": 1, "weigth_decay": 0}, TypeError, "'weigth_decay'.*Did you mean 'weight_decay'"),
        ({"rule": "Lion", "lr": 1, "engine": "eager"}, TypeError, "engine is a setting of the whole optimizer"),
        ({"rule": "paged_lion_8bit", "lr": 1}, TypeError, "paged is a setting of the whole optimizer"),
        ({"rule": "Lion", "lr": -1}, ValueError, "Invalid learning rate: -1"),
        ({"rule": "Lion", "lr": 1, "betas": (2, 0)}, ValueError, "Invalid beta parameter at index 0: 2"),
        ({"rule": "SGD", "lr": 1, "nesterov": True}, ValueError, "Nesterov momentum requires"),
        ({"rule": "SGD", "lr": 1, "state": "8bit"}, ValueError, "SGD keeps no state with these settings"),
        ({"rule": "Lion", "lr": 1, "differentiable": True}, ValueError, "differentiable=True is not supported"),
        ({"rule": "AdamW", "momentum": 0.9}, TypeError, "AdamW has no setting 'momentum'"),
    ],
)
def test_a_group_that_is_refused_changes_nothing(group, error, words):
    p, q = leaves([torch.ones(80, 80), torch.ones(3)])
    with pytest.raises(error, match=words):
        gradstep.AdamW([{"params": [p], **group}])
    optimizer = gradstep.AdamW([q])
    with pytest.raises(error, match=words):
        optimizer.add_param_group({"params": [p], **group})
    assert len(optimizer.param_groups) == 1
    give([q], [torch.ones(3)])
    optimizer.step()


def test_labels_of_a_user_s_own_are_kept():
    (p,) = leaves([torch.ones(3)])
    labels = {"name": "hidden", "initial_lr": 0.1, "lr_scale": 0.5, "max_momentum": 0.9}
    group = gradstep.AdamW([{"params": [p], "rule": "Lion", "lr": 0.1, **labels}]).param_groups[0]
    assert {key: group[key] for key in labels} == labels


def test_two_rules_of_one_name_are_refused():
    lion = type("Lion", (Climb,), {"__dataclass_fields__": Climb.__dataclass_fields__})
    p, q = leaves([torch.ones(3), torch.ones(3)])
    optimizer = gradstep.AdamW([{"params": [p], "rule": "Lion", "lr": 0.1}])
    with pytest.raises(ValueError, match="another rule called Lion"):
        optimizer.add_param_group({"params": [q], "rule": lion, "lr": 0.1})


def test_a_group_added_between_steps():
    start = starts(SHAPES)
    one, ones, each, others = pair(start[:3], RULES[:3])
    late_one, late_other = leaves(start[3:]), leaves(start[3:])
    for step, grads in enumerate(gradients(4, SHAPES)):
        if step == 2:
            group = {**groups_of(late_one, RULES[3:])[0], "params": [("late", late_one[0])]}
            one.add_param_group(group)
            other = {**groups_of(late_other, RULES[3:])[0], "params": [("late", late_other[0])]}
            each.append(gradstep.AdamW([other]))
        now, then = (ones + late_one, others + late_other) if step >= 2 else (ones, others)
        give(now, grads[: len(now)])
        give(then, grads[: len(then)])
        one.step()
        for optimizer in each:
            optimizer.step()
    assert_same_each(one, each)


def test_a_rule_changed_by_hand_is_seen_by_the_next_step():
    (p,) = leaves([torch.ones(3)])
    optimizer = gradstep.AdamW([{"params": [p], "rule": "Lion", "lr": 0.1}])
    give([p], [torch.ones(3)])
    optimizer.step()
    optimizer.param_groups[0].update(rule="SGD", momentum=0.0, dampening=0.0, nesterov=False)
    with torch.no_grad():
        p.fill_(1.0)
    optimizer.step()
    assert p.tolist() == [pytest.approx(0.9)] * 3
    optimizer.param_groups[0]["rule"] = "Lyon"
    with pytest.raises(ValueError, match=r"Unknown rule in a group: 'Lyon'\. Did you mean 'Lion'"):
        optimizer.step()


# -- checkpoints ------------------------------------------------------------------------------------------------------


def trained_pair(**options):
    one, ones, each, others = pair(starts(SHAPES), **options)
    for grads in gradients(2, SHAPES):
        give(ones, grads)
        give(others, grads)
        one.step()
        for optimizer in each:
            optimizer.step()
    return one, ones, each, others


@pytest.mark.parametrize("options", [{}, {"state": "8bit"}, {"paged": True}], ids=["plain", "8bit", "paged"])
@pytest.mark.parametrize("way", ["state_dict", "file", "deepcopy", "pickle"])
def test_a_run_goes_on_from_a_copy(way, options, tmp_path):
    one, ones, _, _ = trained_pair(**options)
    rest = gradients(5, SHAPES)[2:]
    if way in ("state_dict", "file"):
        copies = leaves(ones)
        other = gradstep.AdamW(groups_of(copies), **options)
        saved = one.state_dict()
        if way == "file":
            torch.save(saved, tmp_path / "run.pt")
            saved = torch.load(tmp_path / "run.pt", weights_only=True)
        other.load_state_dict(copy.deepcopy(saved))
    else:
        other = copy.deepcopy(one) if way == "deepcopy" else pickle.loads(pickle.dumps(one))
        copies = [p for group in other.param_groups for p in group["params"]]
    assert [group.get("rule") for group in other.param_groups] == [
        "Lion",
        "NAdam",
        "SGD",
        None,
    ]
    walk(one, ones, rest)
    walk(other, copies, rest)
    assert_same(one, other)


def test_a_rule_of_a_user_s_own_is_copied():
    (p,) = leaves([torch.ones(3)])
    optimizer = gradstep.AdamW([{"params": [p], "rule": Climb, "lr": 1.0}])
    give([p], [torch.ones(3)])
    optimizer.step()
    other = pickle.loads(pickle.dumps(optimizer))
    other.load_state_dict(optimizer.state_dict())
    (q,) = other.param_groups[0]["params"]
    give([q], [torch.ones(3)])
    other.step()
    assert q.tolist() == [5.0] * 3


def test_the_same_rules_whichever_is_the_class_s_own():
    one, _, _, _ = trained_pair()
    copies = leaves([p for group in one.param_groups for p in group["params"]])
    other = gradstep.Lion(groups_of(copies), lr=0.5)
    other.load_state_dict(one.state_dict())
    assert [group.get("rule") for group in other.param_groups] == [None, "NAdam", "SGD", "AdamW"]
    for a, b in zip(one.param_groups, other.param_groups, strict=True):
        skip = {"params", "rule", "gradstep", "decoupled_weight_decay"}
        assert {k: v for k, v in a.items() if k not in skip} == {k: v for k, v in b.items() if k not in skip}
    with torch.no_grad():
        for p, q in zip(one.state, copies, strict=True):
            q.copy_(p)
    assert_same(one, other)


def exchanged(copies):
    """The groups of :func:`groups_of` with the first two rules exchanged."""
    return groups_of(copies, [RULES[1], RULES[0], *RULES[2:]])


def test_another_rule_of_a_parameter_is_refused():
    one, ones, _, _ = trained_pair()
    saved = one.state_dict()
    other = gradstep.AdamW(exchanged(leaves(ones)))
    before = copy.deepcopy(other.param_groups)
    with pytest.raises(
        ValueError, match=r"(?s)other rules.*weight 0: its rule is Lion in the checkpoint, and NAdam he"
    ):
        other.load_state_dict(saved)
    assert str(other.param_groups) == str(before)
    assert not other.state
    report = other.load_state_dict(saved, strict=False)
    assert report
    assert report.loaded == ("weight 2", "weight 3")
    assert report.left_out == {
        "weight 0": "its rule is Lion in the checkpoint, and NAdam here",
        "weight 1": "its rule is NAdam in the checkpoint, and Lion here",
    }
    assert [group["lr"] for group in other.param_groups] == [0.01, 1e-3, 0.1, 0.02]


def test_other_rules_of_one_group_for_all_are_refused():
    """Parameters are matched by name, whatever their groups were."""
    one, ones, _, _ = trained_pair()
    other = gradstep.AdamW([(f"weight {i}", p) for i, p in enumerate(leaves(ones))])
    with pytest.raises(ValueError, match=r"(?s)weight 0: its rule is Lion.*weight 1: its rule is NAdam.*weight 2: its"):
        other.load_state_dict(one.state_dict())
    report = other.load_state_dict(one.state_dict(), strict=False)
    assert report
    assert report.loaded == ("weight 3",)
    with pytest.raises(ValueError, match="is of Lion and NAdam and SGD and AdamW, and this optimizer is RMSprop"):
        gradstep.RMSprop(groups_of(leaves(ones), [("RMSprop", {"lr": 1})] * 4)).load_state_dict(one.state_dict())


def test_a_part_for_torch_s_class():
    """The part of each rule, as an optimizer of that rule alone writes it."""
    one, ones, each, _ = trained_pair()
    parts = gradstep.split_by_rule(one.state_dict())
    assert list(parts) == ["Lion", "NAdam", "SGD", "AdamW"]
    assert one.state_dict()["gradstep"]["format"] == 3  # no older version takes it for a checkpoint of one rule
    for part, optimizer in zip(parts.values(), each, strict=True):
        alone = optimizer.state_dict()
        assert part["gradstep"] == alone["gradstep"]
        assert part["param_groups"][0].keys() == alone["param_groups"][0].keys()
        (p,) = leaves(optimizer.param_groups[0]["params"])
        other = type(optimizer)([(optimizer.param_groups[0]["param_names"][0], p)])
        other.load_state_dict(part)
        assert_same(other, optimizer)
    for name in ("NAdam", "SGD", "AdamW"):  # torch has no Lion
        (p,) = (p for p, (rule, _) in zip(ones, RULES, strict=True) if rule == name)
        getattr(torch.optim, name)([p]).load_state_dict(parts[name])
    with pytest.raises(ValueError, match="as torch writes them: it has one rule only"):
        gradstep.split_by_rule(torch.optim.SGD([ones[0]]).state_dict())


def test_state_of_several_rules_converted():
    one, ones, _, _ = trained_pair()
    small = gradstep.AdamW(groups_of(leaves(ones)), state="8bit")
    converted = gradstep.convert_state(one.state_dict(), small)
    assert {change.slot for change in converted.changes} == {"exp_avg", "exp_avg_sq", "momentum_buffer"}
    small.load_state_dict(converted.state_dict)
    part = gradstep.convert_state(gradstep.split_by_rule(one.state_dict())["Lion"], "8bit").state_dict
    (entry,) = part["state"].values()
    assert_same_bits(small.state[small.param_groups[0]["params"][0]]["exp_avg"], entry["exp_avg"]["codes"])
    by_name = gradstep.convert_state(one.state_dict(), "8bit").state_dict
    other = gradstep.AdamW(groups_of(leaves(ones)), state="8bit")
    other.load_state_dict(by_name)
    assert_same(small, other)


def test_conversions_that_are_refused():
    one, ones, _, _ = trained_pair()
    saved = one.state_dict()
    with pytest.raises(ValueError, match="weight 0 is of Lion in the state dict, and of NAdam here"):
        gradstep.convert_state(saved, gradstep.AdamW(exchanged(leaves(ones))))
    with pytest.raises(
        ValueError, match=r"torch has one rule in an optimizer: convert each part of gradstep\.split_by"
    ):
        gradstep.convert_state(saved, "torch")
    with pytest.raises(ValueError, match="the state dict is of AdamW, and the optimizer is RMSprop"):
        gradstep.convert_state(saved, gradstep.RMSprop(leaves(ones)))


# -- around the optimizer ---------------------------------------------------------------------------------------------


def test_schedules_multiply_each_group_s_own_rate():
    one, ones, _, _ = pair(starts(SHAPES))
    halves = torch.optim.lr_scheduler.LambdaLR(one, lambda update: 0.5**update)
    walk(one, ones, gradients(1, SHAPES))
    halves.step()
    assert [group["lr"] for group in one.param_groups] == [0.5 * settings["lr"] for _, settings in RULES]
    one, _, _, _ = pair(starts(SHAPES))
    half = gradstep.schedules.constant(0.5)
    gradstep.Scheduler(one, lr_factor=half)
    assert [group["lr"] for group in one.param_groups] == [0.5 * settings["lr"] for _, settings in RULES]
    with pytest.raises(
        ValueError, match="one schedule would give the learning rate of one rule to the others: give lr"
    ):
        gradstep.Scheduler(one, lr=half)
    with pytest.raises(ValueError, match="Adagrad has no momentum or betas to drive"):
        gradstep.Scheduler(gradstep.AdamW(groups_of(leaves(starts([(3,)])), [("Adagrad", {"lr": 1})])), momentum=half)
    equal = gradstep.AdamW(groups_of(leaves(starts(SHAPES[:2])), [("Lion", {"lr": 1e-3}), ("AdamW", {})]))
    gradstep.Scheduler(equal, lr=half)
    assert [group["lr"] for group in equal.param_groups] == [0.5, 0.5]


@pytest.mark.parametrize("rule", ["Lion", None])
def test_a_group_whose_rule_was_exchanged_lacks_settings(rule):
    p = torch.ones(3, 3, requires_grad=True)
    optimizer = gradstep.AdamW([{"params": [p], "rule": "Muon", "lr": 0.1}])
    p.grad = torch.ones(3, 3)
    optimizer.step()
    before = p.detach().clone()
    optimizer.param_groups[0]["rule"] = rule
    with pytest.raises(KeyError, match=rf"a group lacks 'betas', a setting of its rule, {rule or 'AdamW'}"):
        optimizer.step()
    assert torch.equal(p, before)


def test_torch_s_one_cycle_needs_cycle_momentum_off():
    """It looks for betas or momentum in the optimizer's defaults, and takes every group to have them."""
    one, _, _, _ = pair(starts(SHAPES))
    rates = [settings["lr"] for _, settings in RULES]
    with pytest.raises(KeyError, match="betas"):
        torch.optim.lr_scheduler.OneCycleLR(one, rates, total_steps=4)
    one, ones, _, _ = pair(starts(SHAPES))
    cycle = torch.optim.lr_scheduler.OneCycleLR(one, rates, total_steps=4, cycle_momentum=False)
    walk(one, ones, gradients(1, SHAPES))
    cycle.step()
    assert one.param_groups[0]["lr"] < one.param_groups[3]["lr"]


def test_a_stepper_accumulates_clips_and_saves(tmp_path):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(70, 70), torch.nn.LayerNorm(70), torch.nn.Linear(70, 5))
    groups: list[dict[str, Any]] = [
        {"params": list(model[0].named_parameters(prefix="0")), "rule": "Lion", "lr": 1e-3},
        {"params": [*model[1].named_parameters(prefix="1"), *model[2].named_parameters(prefix="2")]},
    ]
    optimizer = gradstep.AdamW(groups, state="8bit", model=model)
    stepper = gradstep.Stepper(model, optimizer, accumulate=2, max_grad_norm=1.0)
    for step in range(4):
        with stepper.autocast():
            loss = model(torch.randn(3, 70, generator=torch.Generator().manual_seed(step))).square().mean()
        stepper.backward(loss)
    assert {int(entry["step"]) for entry in optimizer.state.values()} == {2}
    gradstep.save_checkpoint(tmp_path / "run.pt", model=model, optimizer=optimizer)
    expected = snapshot(optimizer)
    walk(optimizer, list(model.parameters()), [[torch.ones_like(p) for p in model.parameters()]])
    gradstep.load_checkpoint(tmp_path / "run.pt", model=model, optimizer=optimizer)
    assert_same(optimizer, expected)


def test_a_grad_scaler_scales_and_skips_all_rules():
    one, ones, each, others = pair(starts(SHAPES))
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    scaler.scale(torch.ones(()))
    for step, grads in enumerate(gradients(3, SHAPES)):
        give(ones, [g * scaler.get_scale() for g in grads])
        give(others, grads)
        if step == 1:
            ones[3].grad.view(-1)[0] = math.nan
        scaler.step(one)
        scaler.update()
        for optimizer in each if step != 1 else ():
            optimizer.step()
        assert one.last_step.stepped is (step != 1)
    assert_same_each(one, each)


def test_gradients_released_in_the_backward_pass():
    models = [torch.nn.ParameterList(leaves(starts(SHAPES))) for _ in range(2)]
    one, other = (gradstep.AdamW(groups_of(list(model))) for model in models)
    with gradstep.release_gradients(models[0], one):
        sum(p.square().sum() for p in models[0]).backward()
        one.step()
    sum(p.square().sum() for p in models[1]).backward()
    other.step()
    assert_same(one, other)

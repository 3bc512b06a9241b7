"""``gradstep.create`` and Hugging Face's names: each makes what it promises, or says what is nearest."""

import ast
import importlib.util
import re
from pathlib import Path

import pytest
import torch
from torch import nn

import gradstep
from gradstep.judge.checking import find_rule
from gradstep.lab.contenders import class_of
from gradstep.planner.request import resolve_rule
from gradstep.variants import PROMISES, find_named_rule, parse_name

MADE = {
    "adamw_torch": "AdamW",
    "adamw_torch_fused": "AdamW",
    "adamw_torch_xla": "AdamW",
    "adamw_torch_npu_fused": "AdamW",
    "adafactor": "Adafactor",
    "adamw_anyprecision": "AdamW",
    "adamw_torch_8bit": "AdamW8bit",
    "adamw_torch_4bit": "AdamW4bit",
    "sgd": "SGD",
    "adagrad": "Adagrad",
    "ademamix": "AdEMAMix",
    "ademamix_8bit": "AdEMAMix8bit",
    "paged_ademamix_32bit": "PagedAdEMAMix",
    "paged_ademamix_8bit": "PagedAdEMAMix8bit",
    "adamw_bnb_8bit": "AdamW8bit",
    "adamw_8bit": "AdamW8bit",
    "lion_8bit": "Lion8bit",
    "lion_32bit": "Lion",
    "paged_adamw_32bit": "PagedAdamW",
    "paged_adamw_8bit": "PagedAdamW8bit",
    "paged_lion_32bit": "PagedLion",
    "paged_lion_8bit": "PagedLion8bit",
    "rmsprop": "RMSprop",
    "rmsprop_bnb": "RMSprop",
    "rmsprop_bnb_8bit": "RMSprop8bit",
    "rmsprop_bnb_32bit": "RMSprop",
    "lomo": "SGD",
    "adalomo": "Adafactor",
    "stable_adamw": "StableAdamW",
    "schedule_free_radam": "ScheduleFreeRAdam",
    "schedule_free_adamw": "ScheduleFreeAdamW",
    "schedule_free_sgd": "ScheduleFreeSGD",
}

NEAREST = {
    "galore_adamw": "adamw_8bit",
    "galore_adamw_8bit": "adamw_8bit",
    "galore_adafactor": "adafactor",
    "galore_adamw_layerwise": "adamw_8bit",
    "galore_adamw_8bit_layerwise": "adamw_8bit",
    "galore_adafactor_layerwise": "adalomo",
    "grokadamw": "adamw",
    "apollo_adamw": "adamw_8bit",
    "apollo_adamw_layerwise": "adamw_8bit",
}


def test_every_name_of_transformers_is_listed():
    spec = importlib.util.find_spec("transformers")
    if spec is None or spec.origin is None:
        pytest.skip("transformers is not installed")
    # Read and not imported: the import takes seconds.
    module = ast.parse(Path(spec.origin).with_name("training_args.py").read_text("utf-8"))
    enum = next(n for n in module.body if isinstance(n, ast.ClassDef) and n.name == "OptimizerNames")
    names = {n.value.value for n in enum.body if isinstance(n, ast.Assign) and isinstance(n.value, ast.Constant)}
    assert len(names) >= 41
    assert names == MADE.keys() | NEAREST.keys()


def test_a_name_makes_what_it_promises():
    for name, kind in MADE.items():
        model = nn.Linear(3, 2).to(torch.bfloat16 if name == "adamw_anyprecision" else torch.float32)
        optimizer = gradstep.create(name, model.named_parameters(), lr=1e-3)
        assert type(optimizer) is getattr(gradstep, kind), name
        assert (gradstep.GradientRelease.of(optimizer) is not None) == (name in ("lomo", "adalomo")), name


def test_a_name_that_makes_nothing_names_the_nearest_in_one_sentence():
    for name, nearest in NEAREST.items():
        with pytest.raises(ValueError, match="Unknown optimizer") as error:
            gradstep.create(name, nn.Linear(3, 2).parameters())
        reason = re.fullmatch(rf"Unknown optimizer: '{name}'\. ([A-Z][^.]*(?:\b\.\b[^.]*)*)\.", str(error.value))
        assert reason is not None, error.value
        assert f"take {nearest!r}" in reason[1]
        assert nearest in PROMISES or parse_name(nearest)  # it is a name


def names_of_rules(name):
    """The rule that each place that takes names finds under one; a group's and an optimizer's with its storage."""
    p = torch.ones(80, 80, requires_grad=True)
    group = gradstep.SGD([{"params": [p], "rule": name, "lr": 0.1}], lr=0.1)
    return {
        "create": type(gradstep.create(name, [p], lr=0.1)).__name__,
        "group": group.rule_of(group.param_groups[0]).__name__,
        "race": class_of(name).__name__,
        "plan and kernel": type(resolve_rule(name)).__name__,
        "check": find_rule(name).__name__,
    }


@pytest.mark.parametrize("name", ["lion", "Lion", "LION", "stable_adamw", "StableAdamW", "stableadamw", "AdamW_torch"])
def test_every_place_reads_a_name_alike(name):
    rule = next(r for r in gradstep.RULES if r.lower() == name.lower().removesuffix("_torch").replace("_", ""))
    assert set(names_of_rules(name).values()) == {rule}


def test_a_class_s_name_is_a_name_everywhere():
    p = torch.ones(80, 80, requires_grad=True)
    for name, kind in (("AdamW8bit", gradstep.AdamW8bit), ("PagedLion8bit", gradstep.PagedLion8bit)):
        assert type(gradstep.create(name, [p])) is class_of(name) is class_of(name.lower()) is kind
        for takes_a_rule in (resolve_rule, find_rule):
            with pytest.raises(ValueError, match=f"give the rule alone here, '{kind.rule().__name__.lower()}'"):
                takes_a_rule(name)
    with pytest.raises(ValueError, match=r"Only gradstep\.create"):
        resolve_rule("Lomo")


def test_every_place_refuses_a_name_alike():
    p = torch.ones(3, requires_grad=True)
    for place in (
        lambda: gradstep.create("Adamv", [p]),
        lambda: gradstep.SGD([{"params": [p], "rule": "Adamv", "lr": 0.1}]),
        lambda: class_of("Adamv"),
        lambda: resolve_rule("Adamv"),
        lambda: find_rule("Adamv"),
    ):
        with pytest.raises(ValueError, match=r"Unknown optimizer: 'Adamv'\. Did you mean 'adam") as error:
            place()
        assert "'adamw'" in str(error.value)


def test_anyprecision_keeps_what_rounding_loses():
    p = torch.ones(8, dtype=torch.bfloat16, requires_grad=True)
    optimizer = gradstep.create("adamw_anyprecision", [p], lr=1e-4, weight_decay=0.0)
    for _ in range(100):  # each update is 1/40 of the distance to the next number below
        p.grad = torch.ones_like(p)
        optimizer.step()
    assert "kahan_comp" in optimizer.state[p]
    assert p.detach().float().tolist() == [253 / 256] * 8  # the nearest to 0.99
    with pytest.raises(ValueError, match="rounding='kahan' is for bfloat16 and float16 parameters, and there are none"):
        gradstep.create("adamw_anyprecision", [torch.ones(3, requires_grad=True)])


@pytest.mark.parametrize(("name", "plain"), [("lomo", "sgd"), ("adalomo", "adafactor")])
def test_lomo_releases_its_gradients(name, plain):
    def train(name):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1))
        optimizer = gradstep.create(name, model.named_parameters(), learning_rate=0.1)
        gradients: list[torch.Tensor | None] = []
        for _ in range(3):
            model(torch.ones(4, 8)).square().sum().backward()
            gradients = [p.grad for p in model.parameters()]
            optimizer.step()
            optimizer.zero_grad()
        return model, optimizer, gradients

    (model, optimizer, gone), (other, _, there) = train(name), train(plain)
    assert all(map(torch.equal, model.parameters(), other.parameters()))
    assert all(g is None for g in gone)
    assert all(g is not None for g in there)
    with pytest.raises(ValueError, match="gradients of this optimizer are released"):
        gradstep.Stepper(model, optimizer)
    release = gradstep.GradientRelease.of(optimizer)
    assert release is not None
    release.remove()
    assert gradstep.GradientRelease.of(optimizer) is None


def test_a_name_that_promises_more_than_a_group_can_keep():
    p = [torch.ones(3, requires_grad=True)]
    with pytest.raises(ValueError, match=r"'lomo'\. Only gradstep\.create\(\) makes it: its rule is 'sgd'"):
        gradstep.AdamW([{"params": p, "rule": "lomo", "lr": 0.1}])


def test_a_path_is_no_name_of_a_rule():
    with pytest.raises(TypeError, match="must be a string such as 'adamw_8bit'"):
        find_named_rule(Path("mine.py"))

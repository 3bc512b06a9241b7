"""From a spec to an optimizer with its settings."""

import pytest
import torch

from gradstep.lab.contenders import CLASSES, DEFAULT_LINEUP, make_contender, with_peers
from gradstep.lab.specs import parse_specs
from gradstep.lab.tasks import TASKS
from gradstep.lab.tasks.surface import Surface

DIGITS = TASKS["digits"]


def contender(text: str):
    (spec,) = parse_specs(text)
    return make_contender(spec, DIGITS)


def test_the_task_gives_the_learning_rate_unless_one_is_asked_for():
    assert dict(contender("adamw").settings)["lr"] == 0.01
    assert dict(contender("torch.adamw").settings)["lr"] == 0.01
    assert dict(contender("sgd").settings)["lr"] == 0.3
    assert dict(contender("sgd:momentum=0.9").settings)["lr"] == 0.1
    assert dict(contender("adamw:lr=0.5").settings)["lr"] == 0.5


def test_labels_tell_contenders_apart():
    assert contender("adamw").label == "AdamW"
    assert contender("torch.adamw:betas=(0.9,0.95)").label == "torch.AdamW betas=(0.9,0.95)"
    assert contender("sgd:lr=0.1,momentum=0.9").label == "SGD lr=0.1 momentum=0.9"


def test_peers_follow_with_the_same_settings_where_torch_has_the_class():
    line_up = with_peers(parse_specs("adamw:eps=1e-6,engine=eager,lion,torch.sgd"))
    assert [str(spec) for spec in line_up] == [
        "adamw:eps=1e-06,engine=eager",
        "torch.adamw:eps=1e-06",
        "lion",
        "torch.sgd",
    ]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("torch.muon", "'torch.muon' cannot race: it updates matrices only"),
        ("lyon", "Unknown optimizer: 'lyon'. Did you mean 'lion'?"),
        ("adamw:betaz=(0.9,0.95)", "Unknown setting: 'betaz' of 'adamw'. Did you mean 'betas'?"),
        ("torch.adamw:engine=eager", "Unknown setting: 'engine' of 'torch.adamw'"),
        ("adamw:lr=-1", "adamw:lr=-1: Invalid learning rate: -1"),
    ],
)
def test_what_cannot_race_is_refused_by_name(text, says):
    with pytest.raises(ValueError, match=r"Unknown|Invalid|cannot race") as caught:
        contender(text)
    assert says in str(caught.value)


def test_muon_races_beside_adamw_with_its_rate_of_the_task():
    one = contender("muon:lr=0.5,momentum=0.9")
    assert one.label == "Muon lr=0.5 momentum=0.9, rest AdamW"
    assert dict(one.described_settings)["AdamW's lr"] == 0.01
    groups = {group["name"]: group for group in one.optimizer(DIGITS.model(0)).param_groups}
    assert {name: (group.get("rule"), group["lr"]) for name, group in groups.items()} == {
        "muon/kernels": (None, 0.5),
        "muon": (None, 0.5),
        "adamw/decay": ("AdamW", 0.01),
        "adamw/no_decay": ("AdamW", 0.01),
    }
    assert groups["muon"]["momentum"] == 0.9


UNTUNED = (
    "lamb",
    "lars",
    "mars",
    "normuon",
    "schedulefreeadamw",
    "schedulefreeradam",
    "schedulefreesgd",
    "stableadamw",
)
"""Optimizers that race with their own defaults: no grid has been searched for them yet."""


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_every_optimizer_can_enter_every_task(task):
    model = task.model(0)
    for name in CLASSES:
        (spec,) = parse_specs(name)
        if name in ("muon", "normuon") and isinstance(task, Surface):
            with pytest.raises(ValueError, match=f"'{name}' cannot race on {task.name}, which has no matrix"):
                make_contender(spec, task)
            continue
        optimizer = make_contender(spec, task).optimizer(model)
        assert isinstance(optimizer, torch.optim.Optimizer)
        assert (task.learning_rate(name.removeprefix("torch.")) is None) == (name in UNTUNED)
    assert len({make_contender(spec, task).label for spec in DEFAULT_LINEUP}) == len(DEFAULT_LINEUP)


def test_only_a_rate_that_nobody_chose_is_the_rules_default(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "import dataclasses\n"
        "from gradstep.rules import AdamW\n"
        "@dataclasses.dataclass(frozen=True)\nclass Mine(AdamW): ...\n"
    )
    assert contender(f"{file}:Mine").default_lr == 0.001
    assert contender(f"{file}:Mine:lr=0.5").default_lr is None
    assert contender("adamw").default_lr is None
    assert contender("lamb").default_lr == 0.001

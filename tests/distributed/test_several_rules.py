"""Groups of several rules in one optimizer: sharded (DTensor), under ZeroRedundancyOptimizer, in DCP checkpoints."""

import copy
import io
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh

import gradstep
from tests.distributed.processes import run_once
from tests.distributed.test_sharded_parameters import SHAPES, faults, numbers, placed

RULES: list[dict[str, Any]] = [
    {"rule": "Lion", "lr": 1e-3, "weight_decay": 0.1},
    {"rule": "NAdam", "lr": 1e-2},
    {"rule": "SGD", "lr": 0.1, "momentum": 0.9},
    {"lr": 1e-2},
    {"rule": "Lion", "lr": 1e-3},
]
"""One group for each shape; the group without a rule has the optimizer's own."""

CASES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {}),
    ({"state": "8bit"}, {"flatten_optimizer_state_dict": True}),
]
"""Options of the optimizer, and of its distributed checkpoint."""

EXCHANGED = [RULES[1], RULES[0], *RULES[2:]]


class Model(nn.Module):
    """The parameters of :data:`SHAPES`, sharded by rows if there is a mesh."""

    def __init__(self, mesh: Any = None) -> None:
        from torch.distributed.tensor import Shard

        super().__init__()
        tensors = numbers(0) if mesh is None else placed(mesh, [Shard(0)], numbers(0))
        self.w = nn.ParameterList(map(nn.Parameter, tensors))

    def groups(self, rules: list[dict[str, Any]]) -> list[dict[str, Any]]:
        pairs = zip(self.named_parameters(), rules, strict=True)
        return [{"params": [p], "param_names": [name], **rule} for (name, p), rule in pairs]

    def take_steps(self, optimizer: Any, first: int, stop: int, **step: Any) -> None:
        for t in range(first, stop):
            for p, g in zip(self.w, numbers(t), strict=True):
                sharded = getattr(p, "placements", None)
                p.grad = g if sharded is None else placed(p.device_mesh, sharded, [g])[0]
            optimizer.step(**step)


def run_sharded(found: dict[str, Any]) -> None:
    mesh = init_device_mesh("cpu", (2,))
    for options, flags in CASES:
        model, expected = Model(mesh), Model()
        optimizer, other = (gradstep.AdamW(m.groups(RULES), **options) for m in (model, expected))
        for each, own in ((model, optimizer), (expected, other)):
            each.take_steps(own, 1, 4, max_grad_norm=0.5)
        found[f"sharded {options}"] = faults(optimizer, model.w, other, expected.w)
        dcp = StateDictOptions(**flags)
        saved = copy.deepcopy(get_optimizer_state_dict(model, optimizer, options=dcp))
        again = copy.deepcopy(model)
        again.zero_grad()  # with gradients, torch would not make the state that it reads the keys of
        resumed = gradstep.AdamW(again.groups(RULES), seed=7, **options)
        set_optimizer_state_dict(again, resumed, saved, options=dcp)
        for each, own in ((again, resumed), (expected, other)):
            each.take_steps(own, 4, 6)
        found[f"resumed {options}"] = faults(resumed, again.w, other, expected.w)
    model, exchanged = Model(mesh), Model(mesh)
    optimizer, wrong = gradstep.AdamW(model.groups(RULES)), gradstep.AdamW(exchanged.groups(EXCHANGED))
    model.take_steps(optimizer, 1, 2)
    try:
        set_optimizer_state_dict(exchanged, wrong, get_optimizer_state_dict(model, optimizer))
    except ValueError as error:
        found["exchanged"] = str(error)


def run_zero(found: dict[str, Any]) -> None:
    from torch.distributed.optim import ZeroRedundancyOptimizer  # it warns of its own

    model, expected = Model(), Model()
    optimizer: Any = ZeroRedundancyOptimizer(model.groups(RULES), gradstep.AdamW, state="8bit")
    other = gradstep.AdamW(expected.groups(RULES), state="8bit")
    model.take_steps(optimizer, 1, 4, max_grad_norm=0.5)
    expected.take_steps(other, 1, 4, max_grad_norm=0.5)
    found["zero"] = [torch.equal(p, q) for p, q in zip(model.w, expected.w, strict=True)]
    optimizer.consolidate_state_dict(0)
    box = [optimizer.state_dict() if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(box)
    file = io.BytesIO()
    torch.save(box[0], file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    again = copy.deepcopy(model)
    resumed: Any = ZeroRedundancyOptimizer(again.groups(RULES), gradstep.AdamW, state="8bit")
    resumed.load_state_dict(saved)
    again.take_steps(resumed, 4, 6)
    expected.take_steps(other, 4, 6)
    found["zero resumed"] = [torch.equal(p, q) for p, q in zip(again.w, expected.w, strict=True)]
    cases: list[tuple[str, list[dict[str, Any]], Any]] = [
        ("filled", Model().groups(RULES), {"betas": (0.5, 0.5)}),
        ("class", Model().groups([{"rule": gradstep.Lion, "lr": 1e-3}, *RULES[1:]]), {}),
        ("no lr", Model().groups([{"rule": "Lion"}, *RULES[1:]]), {}),
    ]
    for name, groups, settings in cases:
        try:
            ZeroRedundancyOptimizer(groups, gradstep.AdamW, **settings)
        except ValueError as error:
            found[name] = str(error)


def everything() -> dict[str, Any]:
    found: dict[str, Any] = {}
    run_sharded(found)
    run_zero(found)
    return found


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return run_once(tmp_path_factory, everything, 2, timeout=280)


@pytest.mark.parametrize("options", [{}, {"state": "8bit"}])
@pytest.mark.parametrize("what", ["sharded", "resumed"])
def test_shards_have_the_bits_of_one_process(found, what, options):
    """With one norm over all rules; and on from a distributed checkpoint."""
    assert len(SHAPES) == len(RULES)
    for one in found:
        assert one[f"{what} {options}"] == []


def test_another_rule_in_a_distributed_checkpoint_is_refused(found):
    for one in found:
        assert "w.0: its rule is Lion in the checkpoint, and NAdam here" in one["exchanged"]


@pytest.mark.parametrize("what", ["zero", "zero resumed"])
def test_zero_has_the_bits_of_one_process(found, what):
    for one in found:
        assert one[what] == [True] * len(SHAPES)


def test_what_zero_would_mix_up_is_refused(found):
    for one in found:
        assert "would give its betas=(0.5, 0.5) to the group with rule='Lion' too" in one["filled"]
        assert (
            "keeps a group's 'rule' in its checkpoints: write the name of a built-in rule, such as 'Lion'"
            in one["class"]
        )
        assert "a group with rule='Lion' needs its own 'lr'" in one["no lr"]

"""The noise of rounding goes by seed and name, and continues from whatever part of a checkpoint an engine keeps."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

import gradstep


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 96), nn.Linear(96, 96), nn.Linear(96, 96))


def train(model: nn.Module, optimizer: Any, steps: range) -> dict[str, torch.Tensor]:
    for t in steps:
        for k, p in enumerate(model.parameters()):
            p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(100 * t + k))
        optimizer.step()
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, second[name]) for name, value in first.items())


def test_the_noise_does_not_depend_on_the_order_of_named_parameters():
    one, other, unnamed = network(), network(), network()
    expected = train(one, gradstep.AdamW(one.named_parameters(), state="8bit"), range(3))
    turned = [(f"_orig_mod.module.{name}", p) for name, p in other.named_parameters()][::-1]
    assert equal(train(other, gradstep.AdamW(turned, state="8bit"), range(3)), expected)
    assert not equal(train(unnamed, gradstep.AdamW(unnamed.parameters(), state="8bit"), range(3)), expected)


def test_names_that_occur_twice_are_positions():
    one, other = network(), network()
    twice = gradstep.AdamW([{"params": [("same", p)]} for p in one.parameters()], state="8bit")
    unnamed = gradstep.AdamW(other.parameters(), state="8bit")
    assert equal(train(one, twice, range(3)), train(other, unnamed, range(3)))


@pytest.mark.parametrize("seed_of_torch", [1, 2])
def test_the_seed_is_not_torch_s(seed_of_torch):
    one, other = network(), network()
    expected = train(one, gradstep.AdamW(one.parameters(), state="8bit"), range(3))
    torch.manual_seed(seed_of_torch)
    assert equal(train(other, gradstep.AdamW(other.parameters(), state="8bit", seed=0), range(3)), expected)


def test_groups_are_enough_to_go_on():
    """torch's engines drop everything else."""
    one = network()
    optimizer = gradstep.AdamW(one.named_parameters(), state="8bit", seed=7)
    train(one, optimizer, range(3))
    saved = copy.deepcopy({key: optimizer.state_dict()[key] for key in ("state", "param_groups")})
    other = copy.deepcopy(one)
    resumed = gradstep.AdamW(other.named_parameters(), state="8bit", seed=8)
    resumed.load_state_dict(saved)
    assert equal(train(other, resumed, range(3, 6)), train(one, optimizer, range(3, 6)))
    assert resumed.state_dict()["gradstep"] == optimizer.state_dict()["gradstep"]
    with pytest.raises(ValueError, match="the loaded state dict is of AdamW, and this optimizer is Adam"):
        gradstep.Adam(other.named_parameters(), state="8bit").load_state_dict(saved)


def test_state_as_torch_stores_it_has_torch_s_keys_only():
    """So that files of distributed checkpoints can be exchanged with torch.optim."""
    model: Any = network()
    assert "gradstep" not in gradstep.AdamW(model.parameters()).param_groups[0]
    mixed = [{"params": model[0].parameters()}, {"params": model[1].parameters(), "state": "8bit"}]
    assert ["gradstep" in group for group in gradstep.AdamW(mixed).param_groups] == [False, True]


def test_an_older_checkpoint_goes_on_with_its_noise():
    """Before there was noise by name it went by position; such a checkpoint stays so."""
    one = network()
    optimizer = gradstep.AdamW(one.parameters(), state="8bit", seed=7)
    train(one, optimizer, range(3))
    saved = copy.deepcopy(optimizer.state_dict())
    del saved["gradstep"]["noise"], saved["param_groups"][0]["gradstep"]
    other = copy.deepcopy(one)
    resumed = gradstep.AdamW(other.named_parameters(), state="8bit")
    resumed.load_state_dict(saved)
    assert equal(train(other, resumed, range(3, 6)), train(one, optimizer, range(3, 6)))
    assert resumed.state_dict()["gradstep"]["noise"] == "positions"


@pytest.mark.parametrize("header", ["no JSON", '{"format": 99, "version": "9", "rule": "AdamW"}', "3"])
def test_a_damaged_header_of_a_group_is_refused(header):
    model = network()
    optimizer = gradstep.AdamW(model.parameters(), state="8bit")
    train(model, optimizer, range(1))
    saved = copy.deepcopy(optimizer.state_dict())
    del saved["gradstep"]
    saved["param_groups"][0]["gradstep"] = header
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(ValueError, match=r"gradstep"):
        optimizer.load_state_dict(saved)
    assert optimizer.state_dict()["gradstep"] == before["gradstep"]

"""``gradstep.Muon`` of a whole model: hidden matrices by Muon, the rest by AdamW, as ``param_groups`` groups them."""

import copy

import pytest
import torch
from torch import nn

import gradstep
from tests.training import assert_same


class Model(nn.Module):
    """An embedding, kernels, a norm, a hidden layer and an output layer, perhaps tied to the embedding."""

    def __init__(self, tied=False):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.conv = nn.Embedding(20, 8), nn.Conv1d(8, 8, 3)
        self.norm, self.mlp, self.lm_head = nn.LayerNorm(8), nn.Linear(8, 8), nn.Linear(8, 20, bias=False)
        if tied:
            self.lm_head.weight = self.embed.weight

    def forward(self, tokens):
        x = self.conv(self.embed(tokens).transpose(1, 2)).transpose(1, 2)
        return self.lm_head(self.mlp(self.norm(x)))


def train(model, optimizer, steps=3):
    for step in range(steps):
        model(torch.arange(12).view(2, 6) + step).square().mean().backward()
        optimizer.step(max_grad_norm=1.0)
        optimizer.zero_grad()


def places(optimizer):
    return {row.names[0]: (row.group, row.reason) for row in optimizer.grouping.rows}


def test_names_tell_most():
    optimizer = gradstep.Muon(Model().named_parameters(), lr=0.02)
    assert places(optimizer) == {
        "embed.weight": ("adamw/decay", "an embedding"),
        "conv.weight": ("adamw/decay", "3 dimensions, not known as matrices: give model= or matrices="),
        "conv.bias": ("adamw/no_decay", "a bias"),
        "norm.weight": ("adamw/no_decay", "1 dimension"),
        "norm.bias": ("adamw/no_decay", "a bias"),
        "mlp.weight": ("muon", "a hidden matrix"),
        "mlp.bias": ("adamw/no_decay", "a bias"),
        "lm_head.weight": ("adamw/decay", "the output layer"),
    }
    groups = {group["name"]: group for group in optimizer.param_groups}
    assert groups["muon"]["lr"] == 0.02
    adamw = {key: value for key, value in groups["adamw/decay"].items() if key not in ("params", "param_names", "name")}
    assert adamw == {
        "rule": "AdamW",
        "lr": 1e-3,
        "betas": (0.9, 0.999),
        "eps": 1e-8,
        "weight_decay": 0.1,
        "amsgrad": False,
        "maximize": False,
        "decoupled_weight_decay": True,
    }
    assert groups["adamw/no_decay"]["weight_decay"] == 0.0


def test_the_model_tells_all():
    model = Model(tied=True)
    with pytest.warns(UserWarning, match=r"left no matrix .*mlp.weight \(the last matrix, .*: give model=model"):
        by_name = gradstep.Muon(model.named_parameters(), lr=0.02)
    assert places(by_name)["mlp.weight"] == ("adamw/decay", "the last matrix, taken for the output layer")
    for params in (model.named_parameters(), model.parameters()):
        found = places(gradstep.Muon(params, lr=0.02, model=model))
        assert found["mlp.weight"] == ("muon", "a hidden matrix")
        assert found["conv.weight"] == ("muon/kernels", "kernels of a convolution")
        assert found["norm.weight"] == ("adamw/no_decay", "of a norm")


@pytest.mark.parametrize("tied", [False, True])
def test_the_numbers_are_those_of_param_groups(tied):
    model, other = Model(tied), Model(tied)
    whole = gradstep.Muon(
        model.named_parameters(), lr=0.002, weight_decay=0.01, adjust_lr_fn="match_rms_adamw", model=model
    )
    groups = gradstep.param_groups(other, 0.01, policy="muon", lr=0.002, matrix_lr=0.002)
    for group in groups:
        if "rule" in group:
            group["adjust_lr_fn"] = "match_rms_adamw"
    for one, optimizer in ((model, whole), (other, gradstep.AdamW(groups))):
        train(one, optimizer)
    assert all(map(torch.equal, model.parameters(), other.parameters()))
    assert whole.grouping is not None
    assert {row.names[0]: row.lr for row in whole.grouping.rows} == {row.names[0]: row.lr for row in groups.rows}


def test_names_that_leave_it_open_what_a_matrix_is_are_said():
    embedding = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 4), nn.Linear(4, 9))
    with pytest.warns(UserWarning, match=r"0\.weight is taken for a hidden matrix, unless it is .*: give model"):
        guess = gradstep.Muon(embedding.named_parameters())
    assert places(guess)["0.weight"][0] == "muon"
    assert places(gradstep.Muon(embedding.named_parameters(), model=embedding))["0.weight"][0] == "adamw/decay"
    model = Model(tied=True)
    model.other = nn.Linear(8, 8)
    with pytest.warns(UserWarning, match=r"other\.weight is taken for the output layer, unless that is tied"):
        gradstep.Muon(model.named_parameters())


def test_a_model_without_hidden_matrices_is_said():
    model = nn.Sequential(nn.Linear(3, 3))
    with pytest.warns(UserWarning, match=r"AdamW updates everything: there is 0.weight \(the output layer\)$"):
        gradstep.Muon(model.named_parameters(), model=model)


def test_matrices_alone_and_groups_stay_as_they_are():
    matrices = [torch.ones(4, 4, requires_grad=True), torch.ones(4, 8, requires_grad=True)]
    named = zip(("embed.weight", "head.weight"), matrices, strict=True)
    for optimizer in (gradstep.Muon(matrices), gradstep.Muon(named), gradstep.Muon([{"params": matrices}])):
        assert optimizer.grouping is None
        assert [len(group["params"]) for group in optimizer.param_groups] == [2]


def test_parameters_without_names_are_refused_with_the_remedy():
    with pytest.raises(ValueError, match=r"gradstep\.Muon\(model\.named_parameters\(\), model=model\)"):
        gradstep.Muon(nn.Linear(3, 3).parameters())


def test_matrices_are_as_the_user_says():
    optimizer = gradstep.Muon(Model().named_parameters(), matrices="flatten")
    assert places(optimizer)["conv.weight"] == ("muon", "matrices='flatten'")


def test_checkpoints_and_copies():
    model, other = Model(), Model()
    whole, again = (gradstep.Muon(m.named_parameters(), lr=0.02, maximize=True) for m in (model, other))
    assert all(group.get("maximize") for group in whole.param_groups)
    train(model, whole)
    again.load_state_dict(whole.state_dict())
    other.load_state_dict(model.state_dict())
    train(model, whole)
    train(other, again)
    assert_same(whole, again)
    assert copy.deepcopy(whole).grouping is None


def test_other_rules_beside_muon_s_own():
    vector = torch.ones(3, requires_grad=True)
    optimizer = gradstep.Muon([{"params": [torch.ones(2, 2, requires_grad=True)]}])
    optimizer.add_param_group({"params": [vector], "rule": "Lion", "lr": 0.5})
    vector.grad = torch.ones(3)
    optimizer.step()
    assert vector.tolist() == [0.5] * 3


def test_a_frozen_output_layer_is_still_the_output_layer():
    model = Model()
    model.lm_head.weight.requires_grad_(False)
    reasons = places(gradstep.Muon(model.named_parameters(), model=model))
    assert reasons["lm_head.weight"] == ("adamw/decay", "the output layer")
    assert reasons["mlp.weight"] == ("muon", "a hidden matrix")
    rows = {row.names[0]: row for row in gradstep.param_groups(model, policy="muon", matrix_lr=0.02).rows}
    assert rows["mlp.weight"].reason == "a hidden matrix"

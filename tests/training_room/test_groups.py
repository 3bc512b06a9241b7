"""Parameter groups against assignments worked out by hand."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gradstep


class PlainRMSNorm(nn.Module):
    """A norm that torch does not know, with a gain of two dimensions."""

    def __init__(self, *shape):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(*shape))


class QuietLayer(nn.LayerNorm):
    """A norm by inheritance only."""


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = PlainRMSNorm(1, 4)
        self.attention = nn.MultiheadAttention(4, 2, add_bias_kv=True)
        self.scale = nn.Parameter(torch.ones(()))


class Small(nn.Module):
    """Embedding, two layers, a final norm, a head that is tied to the embedding, a frozen table."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(10, 4)
        self.positions = nn.Parameter(torch.zeros(8, 4))
        self.layers = nn.ModuleList([Block(), Block()])
        self.final = QuietLayer(4)
        self.head = nn.Linear(4, 10)
        self.head.weight = self.embed.weight
        self.frozen = nn.Parameter(torch.zeros(3), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return x


def placed(groups):
    """The group of every parameter by name."""
    return {name: group["name"] for group in groups for name in group["param_names"]}


LAYER = {
    "norm.gain": "no_decay",  # a norm's, though it has two dimensions
    "attention.in_proj_weight": "decay",
    "attention.in_proj_bias": "no_decay",
    "attention.bias_k": "no_decay",  # a bias of three dimensions
    "attention.bias_v": "no_decay",
    "attention.out_proj.weight": "decay",
    "attention.out_proj.bias": "no_decay",
    "scale": "no_decay",
}
BY_HAND = {
    "embed.weight": "decay",
    "positions": "decay",
    **{f"layers.{i}.{name}": group for i in range(2) for name, group in LAYER.items()},
    "final.weight": "no_decay",
    "final.bias": "no_decay",
    "head.bias": "no_decay",
}


def test_the_usual_policy():
    groups = gradstep.param_groups(Small(), weight_decay=0.1)
    assert placed(groups) == BY_HAND
    assert {g["name"]: g["weight_decay"] for g in groups} == {"decay": 0.1, "no_decay": 0.0}


def test_by_dimension():
    model = Small()
    groups = gradstep.param_groups(model, policy="ndim>=2")
    for name, p in model.named_parameters():
        if p.requires_grad:
            assert placed(groups)[name] == ("decay" if p.ndim >= 2 else "no_decay"), name
    assert placed(groups)["layers.0.norm.gain"] == "decay"  # dimension alone counts


def test_all():
    assert set(placed(gradstep.param_groups(Small(), policy="all")).values()) == {"decay"}


@pytest.mark.parametrize("policy", ["no_decay_norm_bias", "ndim>=2", "all"])
def test_embeddings_can_be_taken_out(policy):
    decayed = placed(gradstep.param_groups(Small(), policy=policy))
    spared = placed(gradstep.param_groups(Small(), policy=policy, embeddings="no_decay"))
    assert {name for name in decayed if decayed[name] != spared[name]} == {"embed.weight"}


@pytest.mark.parametrize(
    "norm",
    [
        nn.LayerNorm(4),
        nn.GroupNorm(2, 4),
        nn.BatchNorm1d(4),
        nn.BatchNorm3d(4),
        nn.InstanceNorm2d(4, affine=True),
        nn.SyncBatchNorm(4),
        nn.RMSNorm(4),
        QuietLayer((2, 4)),
        PlainRMSNorm(2, 4),
    ],
    ids=lambda norm: type(norm).__name__,
)
def test_norms_are_known_by_type_and_by_name(norm):
    groups = gradstep.param_groups(nn.Sequential(norm, nn.Linear(4, 4)))
    assert {name for name, group in placed(groups).items() if group == "decay"} == {"1.weight"}
    assert all(row.reason == "of a norm" for row in groups.rows if row.names[0].startswith("0."))


def test_tied_weights_count_once():
    model = Small()
    groups = gradstep.param_groups(model)
    flat = [p for group in groups for p in group["params"]]
    assert sum(p is model.embed.weight for p in flat) == 1
    assert len(flat) == len({id(p) for p in flat})
    assert next(row for row in groups.rows if row.names[0] == "embed.weight").names == ("embed.weight", "head.weight")


def test_a_module_used_twice_counts_once():
    shared = nn.Linear(2, 2)
    groups = gradstep.param_groups(nn.ModuleDict({"a": shared, "b": shared}))
    assert placed(groups) == {"a.weight": "decay", "a.bias": "no_decay"}


def test_frozen_parameters_are_left_out_and_listed():
    groups = gradstep.param_groups(Small())
    assert "frozen" not in placed(groups)
    (row,) = [row for row in groups.rows if row.names == ("frozen",)]
    assert (row.group, row.reason) == (None, "frozen: requires no gradient")


def test_every_parameter_is_in_the_table_in_the_models_order():
    model = Small()
    assert [row.names[0] for row in gradstep.param_groups(model).rows] == [name for name, _ in model.named_parameters()]


def test_the_table():
    model = nn.Sequential(nn.Embedding(5, 2), nn.Linear(2, 5, bias=False), nn.Linear(2, 1))
    model[1].weight = model[0].weight
    model[2].bias.requires_grad_(False)
    groups = gradstep.param_groups(model, 0.05, lr=1e-3)
    assert groups.table().splitlines() == [
        "parameter  shape  group  decay  lr     reason",
        "0.weight   5 × 2  decay  0.05   0.001  2 dimensions; tied: 1.weight",
        "2.weight   1 × 2  decay  0.05   0.001  2 dimensions",
        "2.bias     1      –      –      –      frozen: requires no gradient",
    ]


# -- layer-wise decay of the learning rate ------------------------------------------------------------------------


def rates(groups):
    return {name: group["lr"] for group in groups for name in group["param_names"]}


def test_layer_decay_by_hand():
    """Levels, from the top: head (final, head.bias), layers.1, layers.0, embeddings."""
    found = rates(gradstep.param_groups(Small(), lr=1.0, layer_decay=0.5))
    assert found["head.bias"] == found["final.weight"] == 1.0
    assert found["layers.1.scale"] == found["layers.1.attention.in_proj_weight"] == 0.5
    assert found["layers.0.scale"] == 0.25
    assert found["embed.weight"] == found["positions"] == 0.125


def test_layer_decay_names_its_groups():
    names = [g["name"] for g in gradstep.param_groups(Small(), lr=1.0, layer_decay=0.5)]
    assert names == [
        "embeddings/decay",
        "layers.0/no_decay",
        "layers.0/decay",
        "layers.1/no_decay",
        "layers.1/decay",
        "head/no_decay",
    ]


def test_freezing_moves_no_other_rate():
    model = Small()
    before = rates(gradstep.param_groups(model, lr=1.0, layer_decay=0.5))
    model.final.requires_grad_(False)
    model.head.bias.requires_grad_(False)
    after = rates(gradstep.param_groups(model, lr=1.0, layer_decay=0.5))
    assert after == {name: before[name] for name in after}


def test_layers_of_several_stacks_follow_each_other():
    model = nn.ModuleDict(
        {
            "encoder": nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1)),
            "decoder": nn.Sequential(nn.Linear(1, 1)),
        }
    )
    found = rates(gradstep.param_groups(model, lr=1.0, layer_decay=0.5))
    assert [found[f"{name}.weight"] for name in ("encoder.0", "encoder.2", "decoder.0")] == [0.25, 0.5, 1.0]


def test_an_embedding_registered_last_is_at_the_bottom_all_the_same():
    model = nn.ModuleDict({"layers": nn.Sequential(nn.Linear(1, 1)), "embed": nn.Embedding(2, 1)})
    assert rates(gradstep.param_groups(model, lr=1.0, layer_decay=0.5))["embed.weight"] == 0.5


# -- overrides ----------------------------------------------------------------------------------------------------


def test_overrides_go_before_the_policy():
    groups = gradstep.param_groups(
        Small(),
        overrides={
            "head.*": {"lr": 0.5, "betas": (0.9, 0.95), "name": "classifier"},
            "layers.?.scale": {"weight_decay": 0.3},
        },
    )
    where = placed(groups)
    assert where["head.bias"] == "classifier/no_decay"
    assert where["embed.weight"] == "classifier/decay"  # tied: head.weight is one of its names
    assert where["layers.1.scale"] == "layers.?.scale/decay"
    by_name: dict[str, Any] = {g["name"]: g for g in groups}
    assert by_name["classifier/no_decay"]["betas"] == (0.9, 0.95)
    assert by_name["layers.?.scale/decay"]["weight_decay"] == 0.3


def test_explicit_takes_exactly_what_is_matched():
    model = nn.Linear(2, 2)
    groups = gradstep.param_groups(model, 0.2, policy="explicit", overrides={"*": {"lr": 0.1}})
    assert placed(groups) == {"weight": "*/decay", "bias": "*/decay"}
    with pytest.raises(ValueError, match=r"no pattern of overrides matches bias$"):
        gradstep.param_groups(model, policy="explicit", overrides={"weight": {}})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"overrides": {"haed.*": {}}}, r"'haed\.\*' matches no parameter"),
        ({"overrides": {"frozen": {}}}, "'frozen' matches frozen parameters only"),
        ({"overrides": {"head.*": {}, "*.bias": {}}}, r"more than once: .*head\.bias by 'head\.\*' and '\*\.bias'"),
        ({"overrides": {"head.*": {"params": []}}}, "gives 'params'"),
        (
            {"overrides": {f"layers.{i}.scale": {"lr": i + 1.0, "name": "s"} for i in range(2)}},
            "call their group 's/no_decay'",
        ),
        ({"policy": "magic"}, r"Invalid policy: 'magic' \(choose from 'no_decay_norm_bias', 'ndim>=2', 'all', 'muon'"),
        ({"embeddings": "out"}, "Invalid embeddings"),
        ({"weight_decay": -0.1}, "Invalid weight_decay: -0.1"),
        ({"weight_decay": float("nan")}, "Invalid weight_decay: nan"),
        ({"lr": 0.0}, "Invalid lr: 0.0"),
        ({"lr": 1.0, "layer_decay": 1.5}, "Invalid layer_decay: 1.5"),
        ({"layer_decay": 0.5}, "layer_decay needs lr="),
    ],
    ids=lambda value: str(value)[:40],
)
def test_refused(options, words):
    with pytest.raises(ValueError, match=words):
        gradstep.param_groups(Small(), **options)


def test_refused_models():
    with pytest.raises(ValueError, match="nothing can be trained"):
        gradstep.param_groups(nn.Linear(2, 2).requires_grad_(False))
    with pytest.raises(ValueError, match=r"weight has no shape yet"):
        gradstep.param_groups(nn.LazyLinear(2))
    with pytest.raises(ValueError, match="layer_decay needs numbered layers"):
        gradstep.param_groups(nn.Linear(2, 2), lr=1.0, layer_decay=0.5)


# -- what optimizers make of them -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.SGD, gradstep.AdamW, gradstep.Lion])
def test_any_optimizer_takes_them_and_keeps_the_names(kind):
    make: Any = kind
    optimizer = make(gradstep.param_groups(Small(), weight_decay=0.1), lr=0.5)
    assert [g["name"] for g in optimizer.param_groups] == ["decay", "no_decay"]
    assert [g["weight_decay"] for g in optimizer.param_groups] == [0.1, 0.0]
    assert [g["lr"] for g in optimizer.param_groups] == [0.5, 0.5]
    saved = optimizer.state_dict()
    assert [g["name"] for g in saved["param_groups"]] == ["decay", "no_decay"]
    assert saved["param_groups"][1]["param_names"][:2] == ["layers.0.scale", "layers.0.norm.gain"]
    other = make(gradstep.param_groups(Small(), weight_decay=0.1), lr=0.5)
    other.load_state_dict(saved)
    assert [g["name"] for g in other.param_groups] == ["decay", "no_decay"]


def test_only_what_decays_shrinks():
    model = Small()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer: Any = gradstep.AdamW(gradstep.param_groups(model, weight_decay=0.5), lr=0.1)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    for name, p in model.named_parameters():
        factor = 1 - 0.1 * 0.5 if BY_HAND.get(name) == "decay" else 1.0
        torch.testing.assert_close(p.detach(), before[name] * factor)


# -- Muon -------------------------------------------------------------------------------------------------------------


class Transformer(nn.Module):
    """A convolution, an embedding, a layer, stacked experts and an output layer, which may be tied."""

    def __init__(self, *, tied=False):
        super().__init__()
        self.table = nn.Embedding(20, 8)
        self.patches = nn.Conv2d(3, 8, 2)
        self.layers = nn.ModuleList([nn.Sequential(nn.RMSNorm(8), nn.Linear(8, 8))])
        self.experts = nn.Parameter(torch.zeros(2, 8, 8))
        self.out = nn.Linear(8, 20, bias=False)
        if tied:
            self.out.weight = self.table.weight


def muon(model, **options):
    """The group and the reason of every parameter."""
    groups = gradstep.param_groups(model, policy="muon", matrix_lr=0.02, lr=1e-3, **options)
    return groups, {row.names[0]: (row.group, row.lr, row.reason) for row in groups.rows}


def test_hidden_matrices_are_for_muon():
    groups, rows = muon(Transformer())
    assert rows == {
        "table.weight": ("decay", 1e-3, "an embedding"),
        "patches.weight": ("muon/kernels/decay", 0.02, "kernels of a convolution"),
        "patches.bias": ("no_decay", 1e-3, "a bias"),
        "layers.0.0.weight": ("no_decay", 1e-3, "of a norm"),
        "layers.0.1.weight": ("muon/decay", 0.02, "a hidden matrix"),
        "layers.0.1.bias": ("no_decay", 1e-3, "a bias"),
        "experts": ("decay", 1e-3, '3 dimensions, not known as matrices: override "rule" and "matrices"'),
        "out.weight": ("decay", 1e-3, "the output layer"),
    }
    rules = {group["name"]: (group.get("rule"), group.get("matrices")) for group in groups}
    assert rules["muon/decay"] == ("Muon", None)
    assert rules["muon/kernels/decay"] == ("Muon", "flatten")
    assert rules["decay"] == (None, None)


def test_an_output_layer_tied_to_an_embedding_is_the_only_one():
    model = Transformer(tied=True)
    model.last = nn.Linear(8, 8, bias=False)
    assert muon(model)[1]["last.weight"][2] == "a hidden matrix"


def test_output_layers_by_name():
    model = Transformer()
    model.heads = nn.ModuleDict({"one": nn.Linear(8, 2), "two": nn.Linear(8, 3)})
    model.last = nn.Linear(8, 8, bias=False)
    reasons = {name: row[2] for name, row in muon(model)[1].items()}
    assert reasons["heads.one.weight"] == reasons["heads.two.weight"] == "the output layer"
    assert reasons["last.weight"] == reasons["out.weight"] == "a hidden matrix"


def test_overrides_decide_what_muon_gets():
    overrides = {"layers.*.1.weight": {"rule": None}, "experts": {"rule": "Muon", "matrices": "stack", "lr": 0.01}}
    groups, rows = muon(Transformer(), overrides=overrides)
    assert rows["layers.0.1.weight"] == (
        "layers.*.1.weight/decay", 1e-3, "override 'layers.*.1.weight', a hidden matrix"
    )  # fmt: skip
    experts = next(group for group in groups if group["param_names"] == ["experts"])
    assert (experts["rule"], experts["matrices"], experts["lr"]) == ("Muon", "stack", 0.01)
    assert "rule" not in next(group for group in groups if group["param_names"] == ["layers.0.1.weight"])


def test_layer_decay_scales_both_rates():
    rows = muon(Transformer(), layer_decay=0.5)[1]
    assert rows["layers.0.1.weight"][1] == 0.02 * 0.5
    assert rows["layers.0.1.bias"][1] == 1e-3 * 0.5
    assert rows["out.weight"][1] == 1e-3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"policy": "muon"}, "policy 'muon' needs matrix_lr=, Muon's learning rate: 0.02 is usual"),
        ({"matrix_lr": 0.1}, "matrix_lr is the learning rate of policy 'muon', and the policy is 'no_decay_norm_bias'"),
        ({"policy": "muon", "matrix_lr": -1.0}, "Invalid matrix_lr: -1.0"),
        ({"policy": "muon", "matrix_lr": float("nan")}, "Invalid matrix_lr: nan"),
    ],
)
def test_the_rate_of_matrices_must_be_given(options, words):
    with pytest.raises(ValueError, match=words):
        gradstep.param_groups(Transformer(), **options)

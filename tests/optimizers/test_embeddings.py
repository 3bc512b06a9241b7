"""What is an embedding is known by its module, and only guessed from a name where no module is known."""

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import nn

import gradstep


class VocabParallelEmbedding(nn.Module):
    """As Megatron's: an embedding by its class's name."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(512, 64))


class Model(nn.Module):
    """Names that mislead, tables with names that say nothing, and a head that is tied to one."""

    def __init__(self):
        super().__init__()
        self.shared = nn.Embedding(512, 64)
        self.table = nn.Embedding(512, 64)
        self.bag = nn.EmbeddingBag(512, 64)
        self.parallel = VocabParallelEmbedding()
        self.members = nn.ModuleList([nn.Linear(64, 128)])
        self.time_embedding = nn.Sequential(nn.Linear(64, 128))
        self.embed_projection = nn.Linear(64, 128)
        self.pos_emb = nn.Conv2d(16, 16, 4)
        self.head = nn.Linear(64, 512)
        self.head.weight = self.table.weight


TABLES = {"shared.weight", "table.weight", "bag.weight", "parallel.weight"}
MATRICES = {"members.0.weight", "time_embedding.0.weight", "embed_projection.weight", "pos_emb.weight"}


def stored(optimizer: Any) -> dict[str, str]:
    """Which matrices are in 8 bits, and why the others are not."""
    rows = optimizer.state_summary().rows
    return {row.name: "8bit" if "8bit" in row.state else row.reason for row in rows if len(row.shape) > 1}


RIGHT = dict.fromkeys(TABLES, "an embedding") | dict.fromkeys(MATRICES, "8bit")


@pytest.mark.parametrize(
    "given",
    [
        lambda m: {"params": gradstep.param_groups(m, weight_decay=0.1)},
        lambda m: {"params": m.named_parameters(), "model": m},
        lambda m: {"params": [{"params": [pair]} for pair in m.named_parameters()], "model": m},
        lambda m: {"params": nn.Sequential(m).named_parameters(), "model": nn.Sequential(m)},
    ],
    ids=["param_groups", "model", "groups and model", "wrapped"],
)
def test_modules_tell(given):
    model = Model()
    optimizer = gradstep.AdamW(**given(model), state="8bit")
    assert {name.removeprefix("0."): why for name, why in stored(optimizer).items()} == RIGHT
    assert optimizer.state_summary().note == ""
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    assert optimizer.state[model.table.weight]["exp_avg"].dtype == torch.float32
    assert optimizer.state[model.embed_projection.weight]["exp_avg"].dtype == torch.uint8


def test_parameters_without_names_are_known_too():
    model = Model()
    optimizer = gradstep.AdamW(model.parameters(), model=model, state="8bit")
    assert sorted(stored(optimizer).values()) == sorted(RIGHT.values())


def test_without_modules_names_are_guessed_from_and_the_summary_says_so():
    model = Model()
    optimizer = gradstep.AdamW(model.named_parameters(), state="8bit")
    guesses = ("shared.weight", "embed_projection.weight")  # the second is wrong, as guesses can be
    assert stored(optimizer) == dict.fromkeys(TABLES | MATRICES, "8bit") | dict.fromkeys(
        guesses, "an embedding by its name"
    )
    assert str(optimizer.state_summary()).endswith("gradstep.param_groups(model), know them.")
    assert gradstep.AdamW(model.parameters()).state_summary().note == ""
    whole = gradstep.AdamW([{"params": model.parameters(), "state": "8bit"}])
    assert set(stored(whole).values()) == {"8bit"}, "who says it of a group means it"
    assert whole.state_summary().note == ""


def test_what_is_known_outlives_copies_and_checkpoints():
    """And belongs to the optimizer: a checkpoint of one that guessed does not change it."""
    model = Model()
    optimizer = gradstep.AdamW(model.named_parameters(), model=model, state="8bit")
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    for other in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        assert stored(other) == RIGHT
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert stored(optimizer) == RIGHT
    guessed = gradstep.AdamW(model.named_parameters())
    guessed.step()
    fresh = gradstep.AdamW(model.named_parameters(), model=model, state="8bit")
    fresh.load_state_dict(gradstep.convert_state(guessed.state_dict(), fresh).state_dict)
    assert stored(fresh) == RIGHT
    assert fresh.state[model.table.weight]["exp_avg"].dtype == torch.float32
    guessed.load_state_dict(optimizer.state_dict())  # 8 bits to float32 loses nothing
    assert "embeddings" not in guessed.param_groups[0]


def test_a_group_that_is_added_later_may_say_it_too():
    model = Model()
    optimizer = gradstep.AdamW(model.members.parameters(), model=model, state="8bit")
    optimizer.add_param_group({"params": [model.table.weight], "embeddings": [True]})
    optimizer.add_param_group({"params": [("shared.weight", model.shared.weight)][0][1:], "embeddings": [False]})
    assert [row.reason for row in optimizer.state_summary().rows if len(row.shape) > 1] == [
        "state='8bit'",
        "an embedding",
        "state='8bit'",
    ]


def test_another_model_is_refused():
    model = Model()
    with pytest.raises(ValueError, match="model has none of the parameters that are optimized"):
        gradstep.AdamW(model.parameters(), model=Model(), state="8bit")
    with pytest.raises(TypeError, match=r"model must be the torch\.nn\.Module whose parameters"):
        gradstep.AdamW(model.parameters(), model=list(model.parameters()))  # type: ignore[arg-type]

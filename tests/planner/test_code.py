"""The lines that a plan gives to paste, run."""

import json
from typing import Any

import pytest
import torch

import gradstep
from gradstep.planner.models import MODEL_FAMILIES, _parameters_by_family
from gradstep.rules import SGD


@pytest.mark.parametrize(
    ("options", "lines"),
    [
        ({}, ["optimizer = gradstep.AdamW(model.named_parameters())"]),
        ({"state": "8bit"}, ['optimizer = gradstep.AdamW(model.named_parameters(), model=model, state="8bit")']),
        (
            {"params": "bfloat16", "rounding": "kahan", "paged": True, "page_budget": "1MB"},
            [
                "model.to(torch.bfloat16)",
                "optimizer = gradstep.AdamW("
                'model.named_parameters(), rounding="kahan", paged=True, page_budget=1000000)',
            ],
        ),
        (
            {"optimizer": SGD(lr=0.1, momentum=0.9), "engine": "eager"},
            ['optimizer = gradstep.SGD(model.named_parameters(), lr=0.1, momentum=0.9, engine="eager")'],
        ),
    ],
)
def test_the_lines_make_the_optimizer_that_was_planned(options, lines):
    model = torch.nn.Linear(100, 100)
    plan = gradstep.plan(model, **options)
    assert plan.code.splitlines() == lines
    names: dict[str, Any] = {"model": model, "torch": torch, "gradstep": gradstep}
    exec(plan.code, names)
    optimizer = names["optimizer"]
    model(torch.ones(1, 100, dtype=model.weight.dtype)).sum().backward()
    optimizer.step()
    kept = sum(t.numel() * t.element_size() for s in optimizer.state.values() for t in s.values())
    if "paged" not in options:
        assert kept == plan.of("state")


def test_copies_of_shards_are_a_mesh_of_two_dimensions():
    lines = gradstep.plan("3B", gpus=8, sharding="hsdp", replicas=2).code.splitlines()
    assert lines[:2] == [
        'mesh = init_device_mesh("cuda", (2, 4), mesh_dim_names=("replicate", "shard"))',
        "fully_shard(model, mesh=mesh)",
    ]
    lines = gradstep.plan("3B", ranks=12, sharding="hsdp", replicas=2, tensor_parallel=3).code.splitlines()
    assert lines[:3] == [
        'mesh = init_device_mesh("cpu", (2, 2, 3), mesh_dim_names=("replicate", "shard", "tensor"))',
        'parallelize_module(model, mesh["tensor"], layers)',
        'fully_shard(model, mesh=mesh["replicate", "shard"])',
    ]
    lines = gradstep.plan("3B", ranks=12, sharding="fsdp2", tensor_parallel=3).code.splitlines()
    assert lines[:3] == [
        'mesh = init_device_mesh("cpu", (4, 3), mesh_dim_names=("data", "tensor"))',
        'parallelize_module(model, mesh["tensor"], layers)',
        'fully_shard(model, mesh=mesh["data"])',
    ]


@pytest.mark.parametrize(
    ("sharding", "line"),
    [
        (
            "zero1",
            'optimizer = ZeroRedundancyOptimizer(gradstep.param_groups(model, 0.01, policy="all"), '
            'gradstep.AdamW, state="8bit")',
        ),
        ("ddp", "model = DistributedDataParallel(model)"),
        ("zero2", "fully_shard(model, reshard_after_forward=False)"),
        ("fsdp2", "fully_shard(model)"),
    ],
)
def test_sharded_state_is_that_of_torch_s_distributed_engines(sharding, line):
    assert line in gradstep.plan("3B", gpus=8, sharding=sharding, state="8bit").code.splitlines()


CONFIGS = {
    "gpt2": {"n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 1000, "n_positions": 32},
    "llama": {
        "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "intermediate_size": 128, "vocab_size": 1000, "tie_word_embeddings": False,
    },
    "mistral": {
        "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "intermediate_size": 128, "vocab_size": 1000, "head_dim": 32,
    },
}  # fmt: skip
ARCHITECTURES = {"gpt2": "GPT2LMHeadModel", "llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM"}


@pytest.mark.parametrize("kind", MODEL_FAMILIES)
def test_a_configuration_is_counted_alike_with_and_without_transformers(kind, tmp_path):
    pytest.importorskip("transformers")
    config = {"model_type": kind, "architectures": [ARCHITECTURES[kind]], **CONFIGS[kind]}
    file = tmp_path / "config.json"
    file.write_text(json.dumps(config))
    model = gradstep.plan(str(tmp_path))
    assert model.model == tmp_path.name
    assert (
        model.parameters
        == sum(p.numel for p in _parameters_by_family(file, config))
        == gradstep.plan(str(file)).parameters
    )


def test_an_architecture_that_only_transformers_knows(tmp_path):
    pytest.importorskip("transformers")
    file = tmp_path / "config.json"
    sizes = {"d_model": 32, "d_ff": 64, "d_kv": 8, "num_layers": 2, "num_heads": 4, "vocab_size": 100}
    file.write_text(json.dumps({"model_type": "t5", "architectures": ["T5ForConditionalGeneration"], **sizes}))
    attention, feed, norm = 4 * 32 * 32, 2 * 32 * 64, 32
    encoder = 2 * (attention + feed + 2 * norm) + norm + 32 * 4
    decoder = 2 * (2 * attention + feed + 3 * norm) + norm + 32 * 4
    assert gradstep.plan(str(file)).parameters == 100 * 32 + encoder + decoder


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "Cannot read"),
        ("{", "is no JSON"),
        ("[]", "no configuration of a Hugging Face model"),
        ('{"model_type": "no_such_thing"}', "no_such_thing"),
    ],
)
def test_what_is_no_configuration_is_refused(text, says, tmp_path):
    file = tmp_path / "config.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ValueError, match=says):
        gradstep.plan(str(file))

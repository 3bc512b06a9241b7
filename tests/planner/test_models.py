"""What is planned for: counts, names, modules."""

import pytest
import torch
from torch import nn

import gradstep
from gradstep.planner.models import GPT2, MODELS, Llama, model_of, parameters_by_name

PUBLISHED = {
    "gpt2": 124_439_808,
    "gpt2-medium": 354_823_168,
    "gpt2-large": 774_030_080,
    "gpt2-xl": 1_557_611_200,
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.2-3b": 3_212_749_824,
    "llama-3-8b": 8_030_261_248,
    "llama-3-70b": 70_553_706_496,
}


def test_every_known_model_has_its_published_number_of_parameters():
    assert {name: sum(p.numel for p in parameters_by_name(name)) for name in MODELS} == PUBLISHED


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gpt2", "llama-3.2-1b", "llama-3-8b"])
def test_names_and_shapes_are_those_of_hugging_face(name):
    transformers = pytest.importorskip("transformers")
    family = MODELS[name]
    if isinstance(family, GPT2):
        config = transformers.GPT2Config()
        kind = transformers.GPT2LMHeadModel
    else:
        assert isinstance(family, Llama)
        config = transformers.LlamaConfig(
            vocab_size=128_256,
            hidden_size=family.width,
            intermediate_size=family.hidden,
            num_hidden_layers=family.layers,
            num_attention_heads=family.heads,
            num_key_value_heads=family.groups,
            head_dim=family.head_size,
            tie_word_embeddings=family.tied,
        )
        kind = transformers.LlamaForCausalLM
    with torch.device("meta"):
        model = kind(config)
    model.tie_weights()
    theirs = {name: tuple(p.shape) for name, p in model.named_parameters()}
    assert theirs == {p.name: p.shape for p in parameters_by_name(name)}


@pytest.mark.parametrize("given", ["Llama-3.2-1B", "meta-llama/Llama-3.2-1B", "llama_3.2_1b", " llama-3.2-1b "])
def test_a_name_is_found_however_it_is_written(given):
    assert gradstep.plan(given).parameters == PUBLISHED["llama-3.2-1b"]


@pytest.mark.parametrize(
    ("given", "meant"), [("gtp2", "gpt2"), ("llama-3.2-2b", "llama-3.2-1b"), ("lama-3-8b", "llama-3-8b")]
)
def test_a_name_that_is_not_known_is_put_right(given, meant):
    with pytest.raises(ValueError, match=f"Unknown model: '{given}'. Did you mean .*'{meant}'"):
        gradstep.plan(given)


@pytest.mark.parametrize(
    "given", ["3B", "3b", " 3 B", "3e9", 3e9, 3_000_000_000, "3_000_000_000", "3,000,000,000", "3000M"]
)
def test_a_count_however_it_is_written(given):
    assert gradstep.plan(given).parameters == 3_000_000_000


@pytest.mark.parametrize("given", ["3bb", "3GB", "0", "0.5", "1.5", 0, -1, 1.5, float("nan"), float("inf")])
def test_what_is_no_count_is_refused(given):
    with pytest.raises(ValueError, match="Invalid count"):
        gradstep.plan(given)


@pytest.mark.parametrize("given", [None, True, [3], {}])
def test_what_is_no_model_is_refused(given):
    with pytest.raises(TypeError, match=r"a model is a torch.nn.Module, a count such as '3B', or a known name"):
        gradstep.plan(given)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(100, 64)
        self.body = nn.Linear(64, 64, dtype=torch.bfloat16)
        self.head = nn.Linear(64, 100, bias=False)
        self.head.weight = self.embed.weight


def rows(plan: gradstep.Plan) -> dict[str, int]:
    return {row.name: row.nbytes for row in plan.rows}


def test_tied_weights_count_once_and_types_are_the_models_own():
    plan = gradstep.plan(Tied())
    assert plan.parameters == 100 * 64 + 64 * 64 + 64
    assert rows(plan)["weights"] == 4 * 6400 + 2 * (4096 + 64)
    assert rows(plan)["exp_avg"] == 4 * plan.parameters  # float32 for half precision too
    assert rows(gradstep.plan(Tied(), rounding="24bit"))["low_byte"] == 4160
    assert rows(gradstep.plan(Tied(), rounding="kahan"))["kahan_comp"] == 2 * 4160
    assert rows(gradstep.plan(Tied(), rounding="master"))["master_param"] == 4 * 4160


def test_a_model_is_planned_in_another_type():
    assert rows(gradstep.plan(Tied(), params="float32"))["weights"] == 4 * (6400 + 4160)
    double = nn.Linear(64, 64, dtype=torch.float64)
    assert rows(gradstep.plan(double))["exp_avg"] == 8 * 4160
    assert rows(gradstep.plan(double, params="float32"))["exp_avg"] == 4 * 4160


def test_frozen_parameters_have_weights_only():
    model = Tied()
    model.embed.requires_grad_(False)
    plan = gradstep.plan(model, params="float32")
    assert (plan.parameters, plan.trainable) == (6400 + 4160, 4160)
    assert rows(plan)["weights"] == 4 * (6400 + 4160)
    assert rows(plan)["gradients"] == rows(plan)["exp_avg"] == 4 * 4160


def test_a_model_on_the_meta_device_is_planned_without_its_memory():
    with torch.device("meta"):
        model = nn.Linear(10**5, 10**5)
    assert gradstep.plan(model, state="8bit").of("weights") == 4 * (10**10 + 10**5)


def test_complex_weights_are_pairs():
    model = nn.ParameterList([nn.Parameter(torch.zeros(5000, dtype=torch.complex64))])
    plan = gradstep.plan(model, params="bfloat16", state="8bit")  # which complex numbers have no form of
    assert rows(plan)["weights"] == rows(plan)["exp_avg"] == 8 * 5000


def test_a_module_without_parameters_is_refused():
    with pytest.raises(ValueError, match="ReLU has no parameters"):
        model_of(nn.ReLU())

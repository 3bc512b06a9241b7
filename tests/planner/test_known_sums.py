"""Sums that are known from texts, or worked by hand."""

import pytest

import gradstep
from gradstep.planner.models import parameters_by_name
from gradstep.planner.parameters import plausible_embedding
from gradstep.planner.request import GB, GIB
from gradstep.rules import SGD, Adafactor, AdamW

GPT2_EMBEDDINGS = 50_257 * 768 + 1_024 * 768


def of(plan: gradstep.Plan, name: str) -> int:
    (row,) = [row for row in plan.rows if row.name == name]
    return row.nbytes


def test_3_billion_take_48_gb():
    plan = gradstep.plan("3B")
    assert [of(plan, name) for name in ("weights", "gradients", "exp_avg", "exp_avg_sq")] == [12 * GB] * 4
    assert plan.total == plan.device == 48 * GB + 4  # and the step count
    assert (plan.host, plan.disk) == (0, 0)


def test_a_count_needs_on_the_gpu_what_a_model_of_its_size_does():
    """The foreach engine makes arrays of some million elements, whatever the size of the largest parameter."""
    plan = gradstep.plan("3B", gpus=1)
    assert plan.kept == 48 * GB + 4
    assert 0 < plan.device - plan.kept < 0.25 * GB
    model = gradstep.plan("llama-3.2-3b", gpus=1)
    each = [(p.device - p.kept) / p.parameters for p in (plan, model)]
    assert each[0] == pytest.approx(each[1], rel=0.15)
    assert str(plan).splitlines()[0].endswith("48.0 GB of weights, gradients and state")


@pytest.mark.parametrize(
    ("name", "most"), [("gpt2", 1.2), ("gpt2-xl", 4.5), ("llama-3.2-1b", 1.2), ("llama-3-70b", 1.2)]
)
def test_the_largest_tensor_of_a_count_is_a_plausible_embedding(name, most):
    real = parameters_by_name(name)
    guess = plausible_embedding(sum(p.numel for p in real))
    assert 0.99 <= guess / max(p.numel for p in real) <= most


def test_paged_24_gb_stay_and_24_go_to_disk():
    plan = gradstep.plan("3B", paged=True, page_budget="512MB")
    assert plan.disk == 24 * GB
    assert plan.device == 24 * GB + 512 * 10**6 + 4
    assert gradstep.plan("3B", paged=True, gpus=1, engine="compiled").host == 24 * GB


def test_10_billion():
    plan = gradstep.plan(10e9)
    assert round(of(plan, "weights") / GIB, 2) == 37.25
    assert round(plan.of("state") / GIB, 2) == 74.51
    assert round((plan.of("weights") + plan.of("state")) / GIB, 2) == 111.76
    assert plan.checkpoint == 120 * GB + 4


def test_175_billion():
    plan = gradstep.plan("175B")
    assert round(plan.of("weights") / GIB, 1) == 651.9
    assert round(plan.of("state") / 2**40, 2) == 1.27


@pytest.mark.parametrize(
    ("options", "a_parameter"),
    [
        ({"params": "bfloat16", "state": "8bit", "rounding": "stochastic"}, 2 + 2 + 2 + 2 / 256),
        ({"params": "bfloat16", "state": "8bit", "rounding": "nearest"}, 2 + 2 + 2 + 2 / 256),
        ({"params": "bfloat16", "state": "float32", "rounding": "kahan"}, 2 + 2 + 2 + 8),
        ({"params": "bfloat16", "state": "8bit", "rounding": "24bit"}, 2 + 2 + 1 + 2 + 2 / 256),
        ({"params": "float16", "state": "bfloat16", "rounding": "master"}, 2 + 2 + 4 + 4),
        ({"params": "bfloat16", "gradients": "float32"}, 2 + 4 + 8),
        ({"state": "bfloat16"}, 4 + 4 + 4),
        ({"optimizer": "lion", "state": "8bit"}, 4 + 4 + 1 + 1 / 256),
        ({"optimizer": "sgd"}, 4 + 4),
        ({"optimizer": SGD(momentum=0.9)}, 4 + 4 + 4),
        ({"optimizer": AdamW(amsgrad=True)}, 4 + 4 + 12),
    ],
)
def test_bytes_a_parameter(options, a_parameter):
    count = 256 * 10**6
    assert gradstep.plan(count, **options).total == count * a_parameter + 4


def test_in_8_bits_embeddings_norms_and_biases_of_gpt2_stay_float32():
    plan = gradstep.plan("gpt2", state="8bit")
    matrices = 12 * 12 * 768 * 768  # 3 + 1 + 4 + 4 squares of 768 in each of 12 blocks
    vectors = 124_439_808 - GPT2_EMBEDDINGS - matrices
    assert of(plan, "exp_avg") == of(plan, "exp_avg_sq") == matrices + 4 * (GPT2_EMBEDDINGS + vectors)
    assert of(plan, "scales") == 2 * matrices // 256
    assert of(plan, "step") == 4 * 148


def test_adafactor_keeps_a_row_and_a_column():
    plan = gradstep.plan("gpt2", optimizer="adafactor")
    assert of(plan, "row_var") == 4 * (50_257 + 1_024 + 12 * (768 + 768 + 768 + 4 * 768))
    assert of(plan, "col_var") == 4 * (768 + 768 + 12 * (3 * 768 + 768 + 4 * 768 + 768))
    assert of(plan, "variance") == 4 * (124_439_808 - GPT2_EMBEDDINGS - 12 * 12 * 768 * 768)


def test_a_count_has_no_rows_and_columns():
    with pytest.raises(ValueError, match="a count does not tell"):
        gradstep.plan("3B", optimizer=Adafactor)


@pytest.mark.parametrize(
    ("sharding", "device"),
    [
        ("ddp", 4 + 4 + 8),
        ("zero1", 4 + 4 + 1),
        ("zero2", 0.5 + 0.5 + 1 + 4),  # and the weights, whole from the forward to the backward pass
        ("fsdp2", 0.5 + 0.5 + 1 + 4 * plausible_embedding(8 * GB) / (8 * GB)),  # and the embedding, made whole
    ],
)
def test_8_gpus_share(sharding, device):
    plan = gradstep.plan("8B", gpus=8, sharding=sharding, engine="compiled")
    assert plan.device == pytest.approx(device * 8 * GB + 4, abs=1)
    assert plan.checkpoint == 96 * GB + 4  # a checkpoint is whole


def test_what_is_dealt_out_is_rounded_up():
    assert of(gradstep.plan(1001, gpus=2, sharding="zero1", engine="compiled"), "exp_avg") == 4 * 501
    assert of(gradstep.plan(1001, gpus=3, sharding="zero1", engine="compiled"), "exp_avg") == 4 * 334


def test_the_gathered_block_is_a_layer_of_the_transformer_or_the_embedding():
    plan = gradstep.plan("llama-3.2-1b", params="bfloat16", gpus=8, sharding="fsdp2")
    assert of(plan, "gathered") == 2 * 128_256 * 2_048
    block = 2 * 8_192 * 8_192 + 2 * 8_192 * 1_024 + 3 * 28_672 * 8_192 + 2 * 8_192
    embedding = 128_256 * 8_192
    assert embedding > block
    assert of(gradstep.plan("llama-3-70b", gpus=8, sharding="fsdp2"), "gathered") == 4 * embedding
    blocks = gradstep.plan("gpt2-xl", gpus=2, sharding="fsdp2")
    assert of(blocks, "gathered") == 4 * 50_257 * 1_600


def test_activations_are_counted_only_if_they_are_given():
    bare, given = gradstep.plan("3B"), gradstep.plan("3B", activations="2GB")
    assert "activations" not in {row.name for row in bare.rows}
    assert given.device == bare.device + 2 * GB


def test_resuming_needs_the_checkpoint_twice_on_the_cpu_and_once_on_the_host():
    cpu = gradstep.plan("1B", activations="2GB")
    assert cpu.checkpoint == 12 * GB + 4
    assert cpu.checkpoint_peak == 2 * cpu.checkpoint  # gradients and activations are not there yet
    assert gradstep.plan("1B", gpus=1).checkpoint_peak == cpu.checkpoint
    paged = gradstep.plan("1B", paged=True, page_budget="100MB")
    assert paged.checkpoint_peak == 4 * GB + 4 + 10**8 + cpu.checkpoint


def test_the_foreach_engine_computes_so_many_elements_together():
    pytest.importorskip("torch")
    from gradstep.engines import foreach
    from gradstep.planner import items

    assert items.FOREACH_ELEMENTS == foreach.ON_DEVICE

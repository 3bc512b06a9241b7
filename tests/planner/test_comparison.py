"""All combinations, and which is recommended."""

import json

import pytest

import gradstep
from gradstep.planner.request import OPTIONS, ROUNDING_CHOICES
from gradstep.rules import SGD
from gradstep.storage.policy import ROUNDINGS


def chosen(*arguments: object, **options: object) -> str:
    best = gradstep.plans(*arguments, **options).best  # type: ignore[arg-type]
    if best is None:
        return "nothing"
    c = best.choice
    return " ".join(filter(None, (c.params, c.rounding, c.state, "paged" if c.paged else "", c.sharding)))


@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        ("49GB", "float32 nearest float32 ddp"),  # 48
        ("47GB", "float32 nearest bfloat16 ddp"),  # 36
        ("35GB", "float32 nearest 8bit ddp"),  # 30.02
        ("30GB", "float32 nearest float32 paged ddp"),  # 24.5 and 24 on disk
        ("24GB", "bfloat16 master float32 paged ddp"),  # 12.5, and 36 on disk
        ("16GB", "bfloat16 master float32 paged ddp"),  # what fits a card of 16 GB
        ("12GB", "nothing"),
    ],
)
def test_3_billion_from_the_plainest_down(budget, expected):
    assert chosen("3B", budget=budget) == expected


@pytest.mark.parametrize(
    ("model", "budget", "expected"),
    [
        ("1B", "17GB", "float32 nearest float32 ddp"),  # 16
        ("1B", "15GB", "float32 nearest float32 zero1"),  # 4 + 4 + 1
        ("1B", "8.9GB", "float32 nearest float32 zero2"),  # 0.5 + 0.5 + 1 + 4
        ("llama-3-8b", "24GB", "float32 nearest float32 fsdp2"),  # 4 + 4 + 8 and the embedding's 2.1
        ("llama-3-8b", "18GB", "float32 nearest bfloat16 fsdp2"),
    ],
)
def test_gpus_are_used_before_anything_is_less_precise(model, budget, expected):
    assert chosen(model, budget=budget, gpus=8, engine="compiled") == expected


def test_every_combination_is_there_once_and_those_that_make_no_sense_are_not():
    compared = gradstep.plans("3B", budget="24GB")
    choices = [plan.choice for plan in compared.plans]
    assert len(choices) == len(set(choices)) == 2 * 3 * (1 + 5)  # placements, states, float32 and bfloat16's roundings
    assert {c.rounding for c in choices if c.params == "float32"} == {"nearest"}
    both = len(choices), len(choices) // 2  # zero2 and fsdp2 divide parameters, which cannot be paged
    assert len(gradstep.plans("3B", budget="24GB", gpus=8).plans) == 2 * both[0] + 2 * both[1]
    assert len(gradstep.plans("3B", budget="24GB", optimizer="sgd").plans) == 1 + 5  # no state to store otherwise
    assert len(gradstep.plans("3B", budget="24GB", optimizer=SGD(momentum=0.9)).plans) == len(choices)


def test_the_codecs_roundings_are_all_compared():
    assert set(ROUNDING_CHOICES) == set(ROUNDINGS)


def test_what_is_fixed_is_kept():
    compared = gradstep.plans("3B", budget="24GB", params="float16", state="8bit", paged=False)
    assert {(p.choice.params, p.choice.state, p.choice.paged) for p in compared.plans} == {("float16", "8bit", False)}
    assert {p.choice.rounding for p in compared.plans} == set(ROUNDING_CHOICES) - {"24bit"}  # which is for bfloat16


def test_the_reason_says_what_and_how_much():
    reason = gradstep.plans("3B", budget="35GB").reason
    assert "float32 weights, 8-bit state, with 30.0 GB of 35.0 GB (as given)" in reason
    assert "The plainest, float32 weights, float32 state, needs 48.0 GB" in reason
    assert "It leaves 5.0 GB for activations, which are not counted" in reason
    assert "The plainest fits" in gradstep.plans("1B", budget="35GB").reason
    assert "for activations" not in gradstep.plans("1B", budget="35GB", activations="1GB").reason
    assert "24.0 GB on disk" in gradstep.plans("3B", budget="30GB").reason
    assert "24.0 GB in the host's memory" in gradstep.plans("3B", budget="30GB", gpus=1, engine="compiled").reason
    nothing = gradstep.plans("3B", budget="1GiB").reason
    assert nothing.startswith("Nothing fits 1.00 GiB (as given): the smallest, bfloat16 weights")
    assert "GB" not in nothing
    assert gradstep.plans("3B", budget=24).reason.endswith("A budget without a unit is in bytes; 24GB has one.")


def test_in_brief_a_row_is_the_first_that_fits_or_the_smallest():
    compared = gradstep.plans("3B", budget="35GB")
    brief = {(p.choice.params, p.choice.rounding, p.choice.state): p for p in compared.brief}
    assert len(brief) == 18
    assert brief["float32", "nearest", "float32"].choice.paged
    assert not brief["float32", "nearest", "8bit"].choice.paged
    assert compared.best in compared.brief
    assert set(compared.brief) <= set(compared.plans)


def test_json_holds_everything():
    compared = gradstep.plans("gpt2", budget="2GiB")
    read = json.loads(json.dumps(compared.as_dict()))
    assert read["budget"] == 2 * 2**30
    recommended = read["plans"][read["recommended"]]
    assert recommended["fits"] is True
    assert recommended["device"] == sum(r["nbytes"] for r in recommended["rows"])
    assert gradstep.plans("gpt2", budget="1MB").as_dict()["recommended"] is None


def test_without_a_budget_nothing_is_judged():
    assert gradstep.plan("3B").fits is None
    assert gradstep.plan("3B", budget="48.1GB").fits is True
    assert gradstep.plan("3B", budget="48GB").fits is False  # the step count is 4 bytes too many
    assert gradstep.plan("3B", budget=48 * 10**9 + 4).fits is True


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"params": "float8"}, "Invalid params: 'float8'"),
        ({"params": "float64"}, "Invalid params: 'float64'"),
        ({"state": "8bits"}, "Invalid state: '8bits' .*Did you mean '8bit'"),
        ({"rounding": "kahn"}, "Did you mean 'kahan'"),
        ({"rounding": "kahan", "params": "float32"}, "rounding='kahan' is for bfloat16 or float16 weights"),
        (
            {"rounding": "24bit", "params": "float16"},
            "rounding='24bit' is for bfloat16 parameters: give 'kahan'",
        ),
        ({"sharding": "zero1"}, "sharding='zero1' needs two data parallel ranks: give ranks=2 or more, or gpus=2"),
        (
            {"sharding": "fsdp2", "ranks": 4, "tensor_parallel": 4},
            "sharding='fsdp2' needs two data parallel ranks: give ranks=8 or more, or gpus=8",
        ),
        ({"sharding": "hsdp", "ranks": 8}, "sharding='hsdp' needs replicas=.* 2 or more"),
        ({"sharding": "hsdp", "ranks": 8, "replicas": 8}, "with two of the 8 data parallel ranks or more for each"),
        ({"sharding": "hsdp", "ranks": 8, "replicas": 3}, "replicas=3 must divide the 8 data parallel ranks"),
        ({"replicas": 2}, "there is 1: give sharding='hsdp' with ranks=4 or more, or gpus=4"),
        ({"ranks": 6, "replicas": 3, "tensor_parallel": 3}, "there are 2: .* with ranks=18 or more"),
        ({"sharding": "hsdp", "ranks": 8, "replicas": 0}, "Invalid replicas: 0"),
        ({"sharding": "fsdp2", "ranks": 8, "replicas": 2}, "replicas=2 is for sharding='hsdp', and not for 'fsdp2'"),
        ({"sharding": "hsdp", "ranks": 8, "replicas": 2, "paged": True}, "paged state holds whole parameters"),
        ({"sharding": "all", "gpus": 8}, "Invalid sharding: 'all'"),
        ({"sharding": "zero1", "ranks": 4, "tensor_parallel": 2}, "take sharding='fsdp2'"),
        ({"sharding": "zero3", "ranks": 4, "paged": True}, "paged state holds whole parameters"),
        ({"ranks": 0}, "Invalid ranks: 0"),
        ({"ranks": 2, "gpus": 4}, "each GPU has one rank, so give one of them"),
        ({"ranks": 4, "tensor_parallel": 3}, "tensor_parallel=3 must divide the 4 ranks"),
        ({"ranks": 4, "rank": 4}, "rank=4: the 4 ranks are 0 to 3"),
        ({"tokens": 0}, "Invalid tokens: 0"),
        ({"gradients": "int8"}, "Invalid gradients: 'int8'"),
        ({"gpus": -1}, "Invalid gpus: -1"),
        ({"gpus": 1.0}, "Invalid gpus: 1.0"),
        ({"budget": "24GXB"}, "Invalid size"),
        ({"budget": 0}, "must be above 0"),
        ({"optimizer": "adamv"}, "Unknown optimizer: 'adamv'. Did you mean 'adam'"),
        ({"optimizer": "sgd", "state": "8bit"}, "SGD as set here keeps no state"),
        ({"optimizer": "sgd", "paged": True}, "SGD as set here keeps no state"),
        ({"engine": "fused", "gpus": 1}, "engine='fused' runs on the CPU only"),
        ({"engine": "compiled", "optimizer": "adafactor"}, "does not: take engine='eager'"),
    ],
)
@pytest.mark.parametrize("ask", [gradstep.plan, gradstep.plans])
def test_what_cannot_be_is_refused(ask, options, words):
    with pytest.raises(ValueError, match=words):
        ask("gpt2", **({"budget": "24GB"} | options))


def test_a_gpus_memory_must_be_told():
    with pytest.raises(ValueError, match="the memory of a GPU is not known here"):
        gradstep.plans("gpt2", gpus=1)


def test_wrong_kinds():
    with pytest.raises(TypeError, match="optimizer must be a name, a Rule or a subclass of Rule"):
        gradstep.plan("gpt2", optimizer=3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"no argument 'stat' \(what can be fixed is params"):
        gradstep.plans("gpt2", stat="8bit")
    for ask in (gradstep.plan, gradstep.plans):
        with pytest.raises(TypeError, match=r"paged must be True, False, a folder or gradstep\.Pages, but is 1"):
            ask("gpt2", paged=1)  # type: ignore[arg-type]
    assert list(OPTIONS) == ["params", "rounding", "paged", "state", "sharding"]

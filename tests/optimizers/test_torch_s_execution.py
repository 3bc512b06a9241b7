"""Torch's settings of how it executes, and others' spellings: a call that was written for torch works."""

import warnings

import pytest
import torch

import gradstep
from gradstep.optimizers import arguments
from tests.registry import subjects
from tests.training import assert_same, normal, trained, unchanged

START = [normal(5), normal(3, 4, seed=1)]
STEPS = [[normal(5, seed=2), normal(3, 4, seed=3)], [normal(5, seed=4), normal(3, 4, seed=5)]]
SILENT = [
    {"fused": True},
    {"foreach": True},
    {"fused": None, "foreach": None},
    {"fused": False, "foreach": False, "capturable": False, "differentiable": False},
]


@pytest.fixture(autouse=True)
def nothing_was_said(monkeypatch):
    monkeypatch.setattr(arguments, "_warned", set())


@pytest.mark.parametrize("execution", SILENT, ids=str)
@pytest.mark.parametrize("subject", subjects())
def test_taken_without_a_word_and_the_numbers_stay(subject, execution):
    plain, _ = trained(subject.optimizer, START, STEPS)
    ours, _ = trained(subject.optimizer, START, STEPS, **execution)
    assert_same(ours, plain)
    assert ours.param_groups[0].keys() == plain.param_groups[0].keys()
    assert not execution.keys() & ours.defaults.keys()


@pytest.mark.parametrize("kind", [gradstep.AdamW8bit, gradstep.PagedAdamW])
def test_by_the_variants_too(kind, tmp_path):
    options = {"paged": tmp_path} if kind is gradstep.PagedAdamW else {}
    kind([torch.ones(3, requires_grad=True)], fused=True, foreach=False, capturable=False, **options)


def test_capturable_is_said_once():
    p = torch.ones(3, requires_grad=True)
    with pytest.warns(UserWarning, match="capturable=True changes nothing.*CUDA graph") as said:
        gradstep.AdamW([p], capturable=True)
    assert said[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gradstep.SGD([p], capturable=True)


def test_a_step_that_autograd_should_record_is_refused():
    p = torch.ones(3, requires_grad=True)
    with pytest.raises(ValueError, match=r"differentiable=True is not supported.*autograd"):
        gradstep.AdamW([p], differentiable=True)
    optimizer = gradstep.AdamW([p])
    with unchanged(optimizer), pytest.raises(ValueError, match="differentiable=True"):
        optimizer.add_param_group({"params": [torch.ones(2, requires_grad=True)], "differentiable": True})
    assert len(optimizer.param_groups) == 1


def test_fused_and_foreach_together_as_in_torch():
    for package in (torch.optim, gradstep):
        with pytest.raises(RuntimeError, match="`fused` and `foreach` cannot be `True` together"):
            package.AdamW([torch.ones(3, requires_grad=True)], fused=True, foreach=True)


def test_in_a_group():
    optimizer = gradstep.AdamW([{"params": [torch.ones(3, requires_grad=True)], "fused": True, "foreach": None}])
    assert not {"fused", "foreach"} & optimizer.param_groups[0].keys()


def test_betas_as_tensors():
    pair = (torch.tensor(0.75), torch.tensor(0.5))
    ours, _ = trained(gradstep.AdamW, START, STEPS, betas=pair)
    assert ours.param_groups[0]["betas"] is pair
    plain, _ = trained(gradstep.AdamW, START, STEPS, betas=(0.75, 0.5))
    assert_same(ours, plain)


@pytest.mark.parametrize("name", ["Adam", "AdamW", "NAdam", "RAdam", "Adamax"])
def test_a_number_and_a_tensor_as_in_torch(name):
    for package in (torch.optim, gradstep):
        for betas in ((torch.tensor(0.75), 0.5), (0.75, torch.tensor(0.5))):
            p = [torch.ones(3, requires_grad=True)]
            if name in ("Adam", "AdamW"):
                with pytest.raises(ValueError, match="betas must be either both floats or both Tensors"):
                    getattr(package, name)(p, betas=betas)
            else:
                assert getattr(package, name)(p, betas=betas).param_groups[0]["betas"] is betas


def test_hugging_face_s_names_and_settings():
    p = [torch.ones(3, requires_grad=True)]
    given = {"learning_rate": 0.5, "adam_beta1": 0.75, "adam_beta2": 0.25, "adam_epsilon": 0.125, "weight_decay": 0.0}
    for name in ("adamw_hf", "adamw_torch", "adamw_apex_fused"):
        optimizer = gradstep.create(name, p, **given)
        assert type(optimizer) is gradstep.AdamW
        found = optimizer.param_groups[0]
        assert (found["lr"], found["betas"], found["eps"], found["weight_decay"]) == (0.5, (0.75, 0.25), 0.125, 0.0)
    assert gradstep.create("lion_8bit", p, adam_beta2=0.5).param_groups[0]["betas"] == (0.9, 0.5)
    assert gradstep.create("sgd", p, learning_rate=0.5).param_groups[0]["lr"] == 0.5


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("adamw", {"lr": 0.1, "learning_rate": 0.1}, "lr and learning_rate are the same setting"),
        ("adamw", {"betas": (0.9, 0.99), "adam_beta1": 0.5}, "betas and adam_beta1 are the same setting"),
        ("sgd", {"adam_beta1": 0.5}, "SGD has no betas"),
        ("sgd", {"adam_epsilon": 0.5}, "SGD has no setting 'eps'"),
        ("adamw", {"adam_beta3": 0.5}, "AdamW has no setting 'adam_beta3'"),
    ],
)
def test_settings_that_are_none(name, settings, words):
    with pytest.raises(TypeError, match=words):
        gradstep.create(name, [torch.ones(3, requires_grad=True)], **settings)
    with pytest.raises(ValueError, match=r"Invalid beta parameter at index 0: 1\.5"):
        gradstep.create("adamw", [torch.ones(3, requires_grad=True)], adam_beta1=1.5)

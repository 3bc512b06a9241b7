"""Roundings and overflows under the watch: no correct optimizer is called wrong, and what they hide is open."""

import itertools
from typing import Any

import pytest
import torch
from torch import nn

import gradstep
from gradstep.judge.updates.report import Result
from tests.judge.test_watch import told

B16, F32 = torch.bfloat16, torch.float32

FORMS: dict[str, list[dict[str, Any]]] = {
    "SGD": [{"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}, {"momentum": 0.9, "dampening": 0.5}],
    "Adam": [{"amsgrad": True}, {"eps": 1e-3}, {"betas": (0.0, 0.99)}, {"betas": (0.9, 0.0)}],
    "AdamW": [{"amsgrad": True}, {"eps": 1e-3}, {"betas": (0.0, 0.99)}, {"betas": (0.9, 0.0)}],
    "NAdam": [{"decoupled_weight_decay": True}],
    "RAdam": [{"decoupled_weight_decay": True}],
    "RMSprop": [{"momentum": 0.9}, {"centered": True}],
    "Muon": [{"nesterov": True}],
}
FLAGS: list[dict[str, Any]] = [{"maximize": True}, {"fused": True}]
TORCH = ["SGD", "Adam", "AdamW", "NAdam", "RAdam", "Adamax", "Adadelta", "Adagrad", "RMSprop", "Adafactor", "Muon"]
TORCH += ["ASGD", "Rprop", "LBFGS"]


def watch_training(kind, settings, dtype, *, seed=0, steps=25, scale=1.0):
    """The report of a small training; matrices alone where its optimizer is Muon."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 4)).to(dtype)
    parameters = [p for p in model.parameters() if kind.__name__ not in ("Muon", "NorMuon") or p.ndim == 2]
    optimizer = kind(parameters, **settings)
    with gradstep.watch_rules(optimizer) as watch:
        for _ in range(steps):
            x = torch.randn(5, 8).to(dtype)

            def closure(x=x):
                optimizer.zero_grad()
                loss = (model(x) - 1).square().mean() * scale
                loss.backward()
                return loss

            if kind is torch.optim.LBFGS:
                optimizer.step(closure)
            else:
                closure()
                optimizer.step()
    return watch.report


def accusations(report):
    return [p.sentence for p in report.problems]


HARD = [
    (torch.optim.Adafactor, {"lr": 1.0}, B16),
    (torch.optim.Adafactor, {"lr": 10.0}, B16),
    (torch.optim.Adafactor, {"lr": 1e-8}, F32),
    (torch.optim.Adafactor, {"lr": 1e-3}, F32),
    (torch.optim.Muon, {"lr": 0.3}, B16),
    (torch.optim.Muon, {"lr": 10.0}, B16),
    (torch.optim.Adam, {"lr": 1e-3, "betas": (0.9, 0.0)}, B16),
    (torch.optim.AdamW, {"lr": 10.0, "eps": 1e-3, "weight_decay": 0.1}, B16),
    (torch.optim.NAdam, {"lr": 10.0, "weight_decay": 0.1, "decoupled_weight_decay": True}, B16),
    (torch.optim.SGD, {"lr": 10.0, "weight_decay": 0.1}, B16),
    (torch.optim.Adadelta, {"lr": 1e-3}, B16),
    (torch.optim.SGD, {"lr": 1e-8}, B16),
    (torch.optim.AdamW, {"lr": 1e-8}, B16),
    (torch.optim.LBFGS, {"lr": 1e-8}, B16),
    (torch.optim.Rprop, {"lr": 1e-3}, B16),
    (gradstep.AdamW, {"lr": 10.0, "weight_decay": 0.1, "maximize": True}, F32),
    (gradstep.Adafactor, {"lr": 1.0}, B16),
]


@pytest.mark.parametrize(("kind", "settings", "dtype"), HARD)
def test_a_right_optimizer_is_not_called_wrong(kind, settings, dtype):
    assert not accusations(watch_training(kind, settings, dtype))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*weights were left where they were by this step:UserWarning")
@pytest.mark.parametrize("dtype", [F32, B16])
@pytest.mark.parametrize("name", [*TORCH, *(f"gradstep.{rule}" for rule in gradstep.RULES)])
def test_no_right_optimizer_is_called_wrong(name, dtype):
    own = name.startswith("gradstep.")
    name = name.removeprefix("gradstep.")
    kind = getattr(gradstep if own else torch.optim, name)
    decays: list[dict[str, Any]] = [{"weight_decay": 0.0}, {"weight_decay": 0.1}]
    decays = [{}] if name in ("Rprop", "LBFGS") else decays
    for form, lr, decay in itertools.product([{}, *FORMS.get(name, []), *FLAGS], (1e-8, 1e-3, 10.0), decays):
        settings = {"lr": lr, **form, **decay}
        if name == "SGD" and dtype is B16 and settings.get("fused"):
            continue  # torch 2.13 leaves whole vectors of 16 elements as they are: no right optimizer
        try:
            report = watch_training(kind, settings, dtype)
        except (TypeError, ValueError, RuntimeError):
            assert form  # it has no such flag
            continue
        assert not accusations(report), f"{settings}: {report}"


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW, torch.optim.Adafactor])
def test_updates_that_are_rounded_away_are_open(kind):
    report = watch_training(kind, {"lr": 1e-8}, B16)
    assert {(p.result, p.received) for p in report.parameters} == {
        (Result.OPEN, "updates smaller than its dtype resolves")
    }


@pytest.mark.parametrize(
    ("rounding", "dtype"),
    [(r, t) for r in ("24bit", "kahan", "master") for t in (B16, torch.float16) if t is B16 or r != "24bit"],
)
@pytest.mark.parametrize("name", ["AdamW", "SGD", "Lion", "Adafactor"])
def test_updates_that_the_state_holds_are_judged(name, dtype, rounding):
    # bfloat16 itself resolves 2⁻⁸ of a weight, float16 2⁻¹¹: these updates are smaller, and the state holds them.
    # With compensation bfloat16 resolves 2⁻¹⁶, with a byte 2⁻¹⁵.
    lr = (3e-5 if dtype is B16 else 1e-5) * {"SGD": 300.0, "Adafactor": 100.0}.get(name, 1.0)
    settings = {"lr": lr, "rounding": rounding}
    report = watch_training(getattr(gradstep, name), settings, dtype)
    judged = [p for p in report.parameters if len(p.shape) > 1]
    assert {(p.result, p.received) for p in judged} == {(Result.RIGHT, name)}, report


@pytest.mark.parametrize("rounding", ["24bit", "kahan", "master"])
def test_updates_of_another_length_are_found_in_what_the_state_holds(rounding, monkeypatch):
    monkeypatch.setattr("gradstep.judge.updates.matching._name_update", lambda *_: "received another update")

    base: Any = gradstep.AdamW

    def step(self, closure=None):
        rates = [group["lr"] for group in self.param_groups]
        for group in self.param_groups:
            group["lr"] *= 0.7
        base.step(self, closure)
        for group, lr in zip(self.param_groups, rates):
            group["lr"] = lr

    kind = type("AdamW", (base,), {"step": step})
    report = watch_training(kind, {"lr": 3e-5, "rounding": rounding}, B16)
    assert {p.result for p in report.parameters if len(p.shape) > 1} == {Result.WRONG}, report


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.RMSprop, gradstep.AdamW])
def test_state_that_overflows_is_open(kind):
    report = watch_training(kind, {"lr": 1e-3}, F32, scale=1e30, steps=3)
    assert {(p.result, p.received) for p in report.parameters} == {
        (Result.OPEN, "not judged: its state overflows float32")
    }


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("form", ["plain", "skipped", "scaled"])
def test_gradients_that_are_never_finite_are_the_reason(form, value):
    p = nn.Parameter(torch.ones(20))
    optimizer: Any = gradstep.AdamW([p]) if form == "skipped" else torch.optim.AdamW([p], fused=True)
    scaler = torch.amp.GradScaler("cpu", enabled=form == "scaled")
    with gradstep.watch_rules(optimizer) as watch:
        for _ in range(5):
            scaler.scale(torch.zeros(1))
            p.grad = torch.full_like(p, value)
            if form == "skipped":
                optimizer.step(max_grad_norm=1.0)
            else:
                scaler.step(optimizer)
                scaler.update()
    (row,) = watch.report.parameters
    assert row.result is Result.OPEN
    assert "not finite" in row.received


def changed(name, factor):
    """An optimizer of torch whose updates are `factor` times as long."""
    base: Any = getattr(torch.optim, name)

    @torch.no_grad()
    def step(self, closure=None):
        parameters = [p for group in self.param_groups for p in group["params"]]
        before = [p.clone() for p in parameters]
        base.step(self, closure)
        for p, b in zip(parameters, before):
            p.copy_(b.double() + factor * (p.double() - b.double()))

    return type(name, (base,), {"step": step})


SIMILAR = ("SGD", "Adam", "AdamW", "NAdam", "Adamax", "Adagrad", "RMSprop", "Adafactor")
RATES = {"SGD": 0.1, "Adafactor": 0.3, "Muon": 0.3}


@pytest.mark.parametrize("dtype", [F32, B16])
@pytest.mark.parametrize(("name", "factor"), [*itertools.product(SIMILAR, (0.7, -1.0)), ("Muon", -1.0)])
def test_updates_of_another_length_are_found_in_every_format(name, factor, dtype, monkeypatch):
    # How it is named is tested elsewhere, and takes longer.
    monkeypatch.setattr("gradstep.judge.updates.matching._name_update", lambda *_: "received another update")
    settings = {"lr": RATES.get(name, 0.03)}
    matrices = [
        p for p in watch_training(changed(name, factor), settings, dtype, steps=8).parameters if len(p.shape) > 1
    ]
    assert {p.result for p in matrices} == {Result.WRONG}
    assert not accusations(watch_training(changed(name, 1.0), settings, dtype, steps=8))


def test_a_small_difference_from_the_promised_rule_is_told_as_such():
    class AdamW(torch.optim.AdamW):
        def step(self, closure=None):
            self.param_groups[0]["eps"] = 2e-4
            super().step(closure)
            self.param_groups[0]["eps"] = 1e-8

    p = nn.Parameter(torch.ones(20))
    optimizer = AdamW([p], lr=0.1)
    torch.manual_seed(0)
    with gradstep.watch_rules(optimizer) as watch:
        for _ in range(5):
            p.grad = 1 + torch.rand(20)
            optimizer.step()
    result, received = told(watch.report)["group 0, parameter 0"]
    assert result is Result.WRONG
    assert received == "received an update 0.01% away from AdamW's"

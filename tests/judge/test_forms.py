"""The forms in which people write optimizers: each gets a verdict, and what is none is told the list."""

import io

import numpy as np
import pytest
import torch
from rich.console import Console

import gradstep
from gradstep import learn
from gradstep.judge import Outcome, Status
from gradstep.judge.table import draw_verdict
from tests.judge.submissions import listings
from tests.judge.submissions.right import InPlace


class Keywords(InPlace):
    def __init__(self, params, **settings):
        super().__init__(params, **settings)


class OwnKeywords(torch.optim.Optimizer):
    """Its keywords are looked up one by one, and others refused."""

    def __init__(self, params, **settings):
        lr = settings.pop("lr", 1e-3)
        if settings:
            raise TypeError(f"unexpected keywords {list(settings)}")
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure=None):
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.sub_(group["lr"] * p.grad)
        return loss


def adam(w, dw, config=None):
    config = {} if config is None else config
    for name, value in {"learning_rate": 1e-3, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8, "t": 0}.items():
        config.setdefault(name, value)
    m, v = config.get("m", np.zeros_like(w)), config.get("v", np.zeros_like(w))
    config["t"] += 1
    config["m"] = config["beta1"] * m + (1 - config["beta1"]) * dw
    config["v"] = config["beta2"] * v + (1 - config["beta2"]) * dw**2
    m, v = config["m"] / (1 - config["beta1"] ** config["t"]), config["v"] / (1 - config["beta2"] ** config["t"])
    return w - config["learning_rate"] * m / (np.sqrt(v) + config["epsilon"]), config


class One:
    """A parameter and its gradient: one object for each array."""

    def __init__(self, learning_rate=1e-3, momentum=0.0):
        self.learning_rate, self.momentum, self.v = learning_rate, momentum, None

    def update(self, w, grad):
        self.v = np.zeros_like(grad) if self.v is None else self.v
        self.v = self.momentum * self.v + grad
        return w - self.learning_rate * self.v


class GradientFirst:
    def __init__(self, learning_rate=1e-3):
        self.learning_rate = learning_rate

    def update(self, grad, w):
        return w - self.learning_rate * grad


class Lists:
    def __init__(self, lr=1e-3, weight_decay=0.0):
        self.lr, self.weight_decay = lr, weight_decay

    def step(self, params, grads):
        return [p - self.lr * (g + self.weight_decay * p) for p, g in zip(params, grads)]


class Dictionaries:
    def __init__(self, lr=1e-3, weight_decay=0.0):
        self.lr, self.weight_decay = lr, weight_decay

    def update(self, params, grads):
        for key in params.keys():  # noqa: SIM118 -- as the book has it
            params[key] -= self.lr * (grads[key] + self.weight_decay * params[key])


class Tensors:
    def __init__(self, lr=1e-3):
        self.lr = lr

    def update(self, param, grad):
        return torch.sub(param, grad, alpha=self.lr)


@pytest.mark.parametrize(
    ("submission", "rule"),
    [
        (Keywords, "adamw"),
        (OwnKeywords, "sgd"),
        (adam, "adam"),
        (One, "sgd"),
        (GradientFirst, "sgd"),
        (Lists, "sgd"),
        (Dictionaries, "sgd"),
        (Tensors, "sgd"),
    ],
)
def test_a_form_that_people_write_passes(submission, rule):
    verdict = gradstep.check(submission, rule)
    assert verdict.passed, str(verdict)


class NoMethod:
    def __init__(self, lr=1e-3):
        self.lr = lr

    def run(self, things):
        return things


@pytest.mark.parametrize("submission", [NoMethod, int])
def test_a_form_that_is_not_known_is_unjudged_with_the_list(submission):
    verdict = gradstep.check(submission, "sgd")
    assert verdict.status is Status.UNJUDGED
    assert "update(w, grad)" in verdict.reason
    assert "(w, dw, config)" in verdict.reason


def test_what_is_no_torch_optimizer_needs_no_closure():
    class Plain:
        def __init__(self, params, lr=1e-3):
            self.params, self.lr = list(params), lr

        def step(self):
            with torch.no_grad():
                for p in self.params:
                    if p.grad is not None:
                        p -= self.lr * p.grad

    verdict = gradstep.check(Plain, "sgd")
    assert verdict.passed, str(verdict)
    assert {p.name for p in verdict.probes if p.outcome is Outcome.SKIPPED} >= {"closure", "closure called"}


class OfTheTutorial(torch.optim.Optimizer):
    """Adam whose decay acts on the weight, after the update, with one step count for all and no closure."""

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0):
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})
        self.t = 0

    def state_dict(self):
        return {**super().state_dict(), "t": self.t}

    def load_state_dict(self, state_dict):
        self.t = state_dict.pop("t")
        super().load_state_dict(state_dict)

    @torch.no_grad()
    def step(self):  # type: ignore[override]  # as the tutorial has it
        self.t += 1
        for group in self.param_groups:
            b1, b2 = group["betas"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                s = self.state[p]
                s["m"] = b1 * s.get("m", 0.0) + (1 - b1) * p.grad
                s["v"] = b2 * s.get("v", 0.0) + (1 - b2) * p.grad**2
                m, v = s["m"] / (1 - b1**self.t), s["v"] / (1 - b2**self.t)
                p.sub_(group["lr"] * m / (v.sqrt() + group["eps"]))
                p.sub_(group["lr"] * group["weight_decay"] * p)


def test_several_conventions_at_once_are_named():
    verdict = gradstep.check(OfTheTutorial, "adam")
    assert set(verdict.matches[0].mistakes) == {"decay-on-weight", "decay-after", "steps-of-all"}
    assert "another convention (textbook)" in verdict.reason


def test_conventions_of_different_houses_are_named_too():
    def mixed(p, g, state, step, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2):
        m = betas[0] * state.get("m", 0.0) + (1 - betas[0]) * g
        v = betas[1] * state.get("v", 0.0) + (1 - betas[1]) * g * g
        size = lr * np.sqrt(1 - betas[1] ** step) / (1 - betas[0] ** step)
        return (1 - weight_decay) * p - size * m / (np.sqrt(v) + eps), {"m": m, "v": v}

    assert gradstep.check(mixed, "adamw").status is Status.DIFFERS
    assert gradstep.check(mixed, "adamw", convention="paper").passed

    def of_two(p, g, state, step, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2):
        m = betas[0] * state.get("m", 0.0) + (1 - betas[0]) * g
        v = betas[1] * state.get("v", 0.0) + (1 - betas[1]) * g * g
        update = m / (1 - betas[0] ** step) / np.sqrt(v / (1 - betas[1] ** step) + eps)
        return (1 - weight_decay) * p - lr * update, {"m": m, "v": v}

    verdict = gradstep.check(of_two, "adamw")
    assert verdict.status is Status.DIFFERS
    assert "by several conventions at once" in verdict.reason
    assert "though no one has them all: textbook; paper" in str(verdict) or "paper; textbook" in str(verdict)


@pytest.mark.parametrize(
    ("listing", "rule", "names", "whose"),
    [
        (listings.AdamW, "adamw", {"decay-after"}, "textbook"),
        (listings.AdamWEpsilonInside, "adamw", {"decay-after", "eps-inside-root"}, "textbook"),
        (listings.AdamOptimizer, "adam", {"decay-on-weight", "decay-after", "steps-of-all"}, "textbook"),
        pytest.param(
            listings.NAdamOptimizer,
            "nadam",
            {"decay-on-weight", "decay-after", "steps-of-all", "mu-constant", "mu-not-ahead"},
            "textbook",
            marks=pytest.mark.slow,
        ),
        (listings.NAdamOnSize, "nadam", {"mu-constant", "mu-not-ahead"}, "textbook"),
    ],
)
def test_a_tutorial_s_listing_is_right_by_its_own_reading_and_every_difference_is_named(listing, rule, names, whose):
    verdict = gradstep.check(listing, rule)
    assert verdict.status is Status.DIFFERS, str(verdict)
    assert set(verdict.matches[0].mistakes) == names
    assert whose in verdict.matches[0].conventions
    assert "defaults" not in {p.name for p in verdict.failed()}
    accepted = gradstep.check(listing, rule, convention=whose)
    assert accepted.passed, str(accepted)


def test_a_default_that_authors_choose_differently_is_advice():
    verdict = gradstep.check(listings.SGDWithMomentum, "sgd")
    assert verdict.passed, str(verdict)
    (probe,) = [p for p in verdict.probes if p.name == "defaults"]
    assert probe.outcome is Outcome.ADVICE
    assert probe.detail == "its defaults are its own: momentum is 0.9 (torch: 0.0)"
    assert verdict.reason == "It computes SGD with momentum=0.9 and behaves as an optimizer should."
    assert gradstep.check(listings.SGDWithMomentum, "sgd", strict=True).status is not Status.PASSED


def _velocity(w, dw, config):
    config.setdefault("learning_rate", 1e-2)
    config["velocity"] = 0.9 * config.get("velocity", 0 * w) + dw
    return w - config["learning_rate"] * config["velocity"], config


def test_what_is_built_in_is_asked_for_and_then_named():
    verdict = gradstep.check(_velocity, "sgd")
    assert verdict.status is Status.FAILED
    assert any("It takes no momentum and no weight_decay" in n and "--set momentum=" in n for n in verdict.notes)
    told = gradstep.check(_velocity, "sgd", {"momentum": 0.9})
    assert told.reason == "It computes SGD with momentum=0.9 and behaves as an optimizer should."
    assert not any("It takes no" in note for note in told.notes)
    plain = gradstep.check(torch.optim.SGD, "sgd", {"momentum": 0.0})
    assert plain.reason == "It computes SGD and behaves as an optimizer should."


def test_a_course_s_listing_passes_its_challenge_by_the_textbook():
    for listing in (listings.AdamW, listings.AdamWEpsilonInside):
        assert learn.check("adamw", listing, "torch", convention="textbook").passed


def test_the_screen_has_the_cause_before_the_probes():
    def shown(**options):
        file = io.StringIO()
        Console(file=file, width=200).print(draw_verdict(verdict, **options))
        return file.getvalue()

    verdict = gradstep.check(_velocity, "sgd", {"momentum": 0.8})
    everything, short = shown(), shown(every=False)
    for text in (everything, short):
        places = [text.index(part) for part in ("FAILED", "First apart in", "what it is about", "✗  averages")]
        assert places == sorted(places)
    assert "✓  first step" in everything
    assert "✓" not in short
    passed = sum(p.outcome is Outcome.PASS for p in verdict.probes)
    assert f"{passed} of {len(verdict.probes)} probes passed; --all shows them too" in short

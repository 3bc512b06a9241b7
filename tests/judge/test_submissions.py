"""Optimizers written by hand: the wrong are named, the right pass, the misbehaving are told so."""

import time
from dataclasses import replace

import pytest
import torch

import gradstep
from gradstep.judge import Outcome, Status
from tests.judge.submissions import misbehaving, numpy_wrong, right, torch_wrong

WRONG = [
    pytest.param(vars(module)[name], rule, names, id=name)
    for module in (torch_wrong, numpy_wrong)
    for name, (rule, names) in module.EXPECTED.items()
]


@pytest.mark.parametrize(("submission", "rule", "names"), WRONG)
def test_a_wrong_optimizer_is_caught_and_its_mistake_named_first(submission, rule, names):
    verdict = gradstep.check(submission, rule)
    assert not verdict.passed
    assert verdict.exit_code == 1
    assert set(verdict.matches[0].mistakes) == set(names)
    assert len(verdict.matches) == 1
    assert verdict.parting is not None


@pytest.mark.parametrize("submission", right.RIGHT, ids=lambda s: s.__name__)
def test_an_equal_rearrangement_passes(submission):
    verdict = gradstep.check(submission, "adamw")
    assert verdict.passed, str(verdict)
    assert not any(p.outcome is Outcome.ADVICE for p in verdict.probes)


@pytest.mark.parametrize("name", [n for n in gradstep.RULES if n != "Lion"])
def test_torchs_own_optimizers_pass(name):
    verdict = gradstep.check(getattr(torch.optim, name), name.lower())
    # torch.optim.Adafactor divides by the number of elements.
    advice = {p.name for p in verdict.probes if p.outcome is Outcome.ADVICE}
    assert verdict.passed, str(verdict)
    assert advice == ({"empty"} if name == "Adafactor" else set())


@pytest.mark.parametrize("name", gradstep.RULES)
def test_gradsteps_own_optimizers_pass(name):
    verdict = gradstep.check(getattr(gradstep, name), gradstep.RULES[name], strict=True)
    assert verdict.passed, str(verdict)


@pytest.mark.parametrize("name", misbehaving.EXPECTED)
def test_what_is_wrong_around_the_mathematics_is_told(name, monkeypatch):
    monkeypatch.setattr("gradstep.judge.diagnosis.PATIENCE", 0.1)  # no mistake of the catalogue is to be found
    rule, probe = misbehaving.EXPECTED[name]
    verdict = gradstep.check(vars(misbehaving)[name], rule)
    assert verdict.status is Status.FAILED
    assert probe in [p.name for p in verdict.failed()]


def test_what_is_not_refused_is_advice_and_fails_only_when_strict():
    assert gradstep.check(misbehaving.TakesAnything, "sgd").passed
    strict = gradstep.check(misbehaving.TakesAnything, "sgd", strict=True)
    assert [p.name for p in strict.failed()] == ["bad settings"]


class _EpsilonByDefault(right.InPlace):
    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-6, weight_decay=1e-2):
        super().__init__(params, lr, betas, eps, weight_decay)


class _RateOffByOneInAMillion(right.InPlace):
    def one(self, p, g, s, b1, b2, lr, eps, wd):
        super().one(p, g, s, b1, b2, lr * (1 + 1e-6), eps, wd)


def test_an_epsilon_of_1e_6_as_the_default_is_caught():
    verdict = gradstep.check(_EpsilonByDefault, "adamw")
    assert verdict.status is Status.DIFFERS
    assert "eps is 1e-06 (torch: 1e-08)" in verdict.reason
    assert gradstep.check(_EpsilonByDefault, "adamw", {"eps": 1e-6}).passed


def test_one_part_in_a_million_is_caught(monkeypatch):
    monkeypatch.setattr("gradstep.judge.diagnosis.PATIENCE", 0.1)
    assert not gradstep.check(_RateOffByOneInAMillion, "adamw").passed


def test_a_check_takes_less_than_five_seconds():
    # The slowest case: nothing is found, so every pair is tried. Computing is measured: other tests may be running.
    started = time.process_time()
    gradstep.check(_RateOffByOneInAMillion, "adam")
    assert time.process_time() - started < 5


@pytest.mark.parametrize(
    ("submission", "rule", "whose"),
    [
        (torch_wrong.DecayLast, "adamw", "tinytorch"),
        (numpy_wrong.OldTinyAdamW, "adamw", "tinytorch"),
        (torch_wrong.DecayByLambdaAlone, "adamw", "paper"),
        (torch_wrong.EpsilonBeforeCorrection, "adamw", "paper"),
        (torch_wrong.HeavyBallOfKeras, "sgd", "keras"),
        (numpy_wrong.rmsprop_of_tensorflow, "rmsprop", "optax"),
        (numpy_wrong.nadam_without_schedule, "nadam", "optax"),
        (numpy_wrong.radam_of_the_paper, "radam", "paper"),
    ],
)
def test_a_convention_is_named_as_such_and_accepted_when_asked_for(submission, rule, whose):
    verdict = gradstep.check(submission, rule)
    assert verdict.status is Status.DIFFERS
    assert whose in verdict.matches[0].conventions
    assert "convention, not an error" in str(verdict)
    assert gradstep.check(submission, rule, convention=whose).passed


def test_the_rule_itself_passes_under_every_convention():
    assert gradstep.check(right.pure, "adamw", convention="tinytorch").passed


def test_settings_built_into_a_function_are_told():
    def step(p, g, state, step):
        buffer = 0.9 * state.get("b", 0.0) + g
        return p - 0.1 * buffer, {"b": buffer}

    assert gradstep.check(step, "sgd", {"lr": 0.1, "momentum": 0.9}).passed
    assert not gradstep.check(step, "sgd", {"lr": 0.1, "momentum": 0.8}).passed


def test_a_frameworks_own_tensor_can_be_the_parameter():
    class Tensor:
        def __init__(self, data):
            self.data, self.grad = data, None

    class SGD:
        def __init__(self, params, lr=0.01):
            if not all(isinstance(p, Tensor) for p in params):
                raise TypeError("parameters must be Tensors")
            self.params, self.lr = params, lr

        def step(self):
            for p in self.params:
                if p.grad is not None:
                    p.data = p.data - self.lr * p.grad.data

    assert gradstep.check(SGD, "sgd").status is Status.UNJUDGED
    assert gradstep.check(SGD, "sgd", parameter=Tensor).passed


def test_a_rule_of_ones_own_is_judged_too():
    from dataclasses import dataclass
    from typing import final

    from gradstep.rules import Rule
    from gradstep.rules.settings import learning_rate

    @final
    @dataclass(frozen=True)
    class HalfSGD(Rule):
        """Half the step of SGD."""

        lr: float = learning_rate(1e-3)

        def coefficients(self, step, **scalars):
            return {"half": self.lr / 2}

        @staticmethod
        def update(p, g, s, c):
            return p - c.half * g

    assert gradstep.check(lambda p, g, s, t, lr=1e-3: (p - lr / 2 * g, s), HalfSGD).passed
    assert gradstep.check(lambda p, g, s, t, lr=1e-3: (p + lr / 2 * g, s), HalfSGD).matches[0].mistakes == ("ascent",)


def test_unknown_names_are_refused_with_the_nearest():
    with pytest.raises(ValueError, match=r"No rule 'adamv'. Did you mean 'adam"):
        gradstep.check(torch.optim.AdamW, "adamv")
    with pytest.raises(ValueError, match="No convention 'jax'"):
        gradstep.check(torch.optim.AdamW, "adamw", convention="jax")


def test_the_verdict_survives_json():
    import json

    verdict = gradstep.check(torch_wrong.TwoThingsAtOnce, "adamw")
    again = gradstep.Verdict.from_dict(json.loads(json.dumps(verdict.as_dict())))
    assert again == replace(verdict)


@gradstep.conformance("adamw")
def test_the_decorator_makes_a_test():
    return torch.optim.AdamW


def test_the_decorator_fails_with_the_report():
    @gradstep.conformance("adamw")
    def wrong():
        return torch.optim.Adam

    with pytest.raises(AssertionError, match="the decay added to the gradient"):
        wrong()
    with pytest.raises(ValueError, match="No rule"):
        gradstep.conformance("adamm")

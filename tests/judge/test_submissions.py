"""Optimizers written by hand: the wrong are named, the right pass, the misbehaving are told so."""

import itertools
from dataclasses import replace

import pytest
import torch

import gradstep
import gradstep.numpy
from gradstep.judge import Outcome, Status
from tests.judge.submissions import misbehaving, numpy_wrong, right, torch_wrong
from tests.optimizers.user_rules import Counts

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


@pytest.mark.parametrize("name", [n for n in gradstep.RULES if hasattr(torch.optim, n)])
def test_torchs_own_optimizers_pass(name):
    verdict = gradstep.check(getattr(torch.optim, name), name.lower())
    # torch.optim.Adafactor divides by the number of elements; Muon takes any eps.
    advice = {p.name for p in verdict.probes if p.outcome is Outcome.ADVICE}
    assert verdict.passed, str(verdict)
    assert advice == {"Adafactor": {"empty"}, "Muon": {"bad settings"}}.get(name, set())


def search_little(monkeypatch):
    monkeypatch.setattr("gradstep.judge.diagnosis.LIKELY_PAIRS", 60)
    monkeypatch.setattr("gradstep.judge.diagnosis.OTHER_PAIRS", 20)


@pytest.mark.parametrize("name", gradstep.RULES)
def test_gradsteps_own_optimizers_pass(name):
    verdict = gradstep.check(getattr(gradstep, name), gradstep.RULES[name], strict=True)
    assert verdict.passed, str(verdict)


@pytest.mark.parametrize("name", misbehaving.EXPECTED)
def test_what_is_wrong_around_the_mathematics_is_told(name, monkeypatch):
    search_little(monkeypatch)  # no mistake of the catalogue is to be found
    rule, probe = misbehaving.EXPECTED[name]
    verdict = gradstep.check(vars(misbehaving)[name], rule)
    assert verdict.status is Status.FAILED
    assert probe in [p.name for p in verdict.failed()]


def test_a_closure_that_is_never_called_is_advice_and_fails_only_when_strict():
    verdict = gradstep.check(misbehaving.ForgetsClosure, "adamw")
    assert verdict.passed
    assert [p.name for p in verdict.probes if p.outcome is Outcome.ADVICE] == ["closure called"]
    assert [p.name for p in gradstep.check(misbehaving.ForgetsClosure, "adamw", strict=True).failed()] == [
        "closure called"
    ]


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
    search_little(monkeypatch)
    assert not gradstep.check(_RateOffByOneInAMillion, "adamw").passed


def _with_two_mistakes(p, g, state, step, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2):
    """No root of the average square, and decay that lets weights grow."""
    m = betas[0] * state.get("m", 0.0) + (1 - betas[0]) * g
    v = betas[1] * state.get("v", 0.0) + (1 - betas[1]) * g * g
    u = m / (1 - betas[0] ** step) / (v / (1 - betas[1] ** step) + eps)
    return p + lr * weight_decay * p - lr * u, {"m": m, "v": v}


def test_the_verdict_does_not_depend_on_how_fast_a_machine_is(monkeypatch):
    clock = itertools.count(step=100.0)
    monkeypatch.setattr("time.process_time", lambda: next(clock))
    verdict = gradstep.check(_with_two_mistakes, "adamw")
    assert [set(match.mistakes) for match in verdict.matches] == [{"v-not-rooted", "decay-sign"}]


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


class _Odd(right.InPlace):
    """Nothing that anybody would write."""

    def one(self, p, g, s, b1, b2, lr, eps, wd):
        super().one(p, g.cos(), s, b1, b2, lr, eps, wd)


def test_a_rule_that_diverges_by_its_own_formula_is_not_called_one_that_does_not_converge():
    verdict = gradstep.check(Counts, rule=Counts)
    assert verdict.passed, str(verdict)
    (probe,) = [p for p in verdict.probes if p.name == "convergence"]
    assert probe.outcome is Outcome.SKIPPED
    assert probe.detail == (
        "the rule itself diverges: by its formula in float64 the quadratic leaves 4.12 for infinity"
    )


def test_what_is_like_nothing_known_is_not_compared_with_something_far(monkeypatch):
    search_little(monkeypatch)
    assert "none comes near" in gradstep.check(_Odd, "adamw").nearest


def test_what_is_nearly_something_known_is_compared_with_it(monkeypatch):
    search_little(monkeypatch)

    def step(p, g, state, step, lr=1e-3, momentum=0.0, dampening=0.0, nesterov=False, weight_decay=0.0):
        lr = lr * 1.01 if step > 40 else lr  # only the longest scenario sees it
        buffer = momentum * state.get("b", 0.0) + (1 - momentum) * (g + weight_decay * p)
        return p - lr * buffer, {"b": buffer}

    nearest = gradstep.check(step, "sgd").nearest
    assert "Nearest: SGD with the momentum as an average" in nearest


def test_two_mistakes_in_the_mathematics_and_one_around_it_are_named():
    """As pytorch_optimizer's AdaFactor has it, which is Hugging Face's but for the count."""

    class Adafactor(torch.optim.Optimizer):
        def __init__(self, params, lr=1e-2, beta2_decay=-0.8, eps=(1e-30, 1e-3), d=1.0, weight_decay=0.0):
            self.t = 0
            defaults = {"lr": lr, "beta2_decay": beta2_decay, "eps": eps, "d": d, "weight_decay": weight_decay}
            super().__init__(params, defaults)

        def state_dict(self):
            return {**super().state_dict(), "t": self.t}

        def load_state_dict(self, state_dict):
            self.t = state_dict.pop("t")
            super().load_state_dict(state_dict)

        @torch.no_grad()
        def step(self, closure=None):
            loss = None if closure is None else torch.enable_grad()(closure)()
            self.t += 1
            for group in self.param_groups:
                for p in group["params"]:
                    if p.grad is not None:
                        self.one(p, p.grad, self.state[p], group)
            return loss

        def one(self, p, g, s, group):
            rest = self.t ** group["beta2_decay"]
            alpha = max(group["eps"][1], p.square().mean().sqrt().item()) * min(group["lr"], self.t**-0.5)
            square = g * g + group["eps"][0]
            if p.ndim < 2:
                s["v"] = v = s.get("v", 0.0) + rest * (square - s.get("v", 0.0))
            else:
                row, col = square.mean(-1, keepdim=True), square.mean(-2, keepdim=True)
                s["r"] = s.get("r", 0.0) + rest * (row - s.get("r", 0.0))
                s["c"] = s.get("c", 0.0) + rest * (col - s.get("c", 0.0))
                v = s["r"] * s["c"] / s["r"].mean(-2, keepdim=True)
            u = g / v.sqrt()
            u /= max(1.0, u.square().mean().sqrt().item() / group["d"])
            p.mul_(1 - alpha * group["weight_decay"]).sub_(alpha * u)

    verdict = gradstep.check(Adafactor, "adafactor")
    assert set(verdict.matches[0].mistakes) == {"eps1-added", "decay-by-step-size", "steps-of-all"}


def test_a_file_is_judged_in_a_process_of_its_own(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("def step(p, g, state, t, lr=1e-3):\n    while t > 2: pass\n    return p - lr * g, state\n")
    verdict = gradstep.check(f"{file}:step", "sgd", time_limit=1.0)
    assert verdict.status is Status.UNJUDGED
    assert "did not end within 1 s" in verdict.reason
    file.write_text("def step(p, g, state, t, lr=1e-3):\n    return p - lr * g, state\n")
    assert gradstep.check(f"{file}:step", "sgd").passed
    with pytest.raises(TypeError, match="by the name of a rule"):
        gradstep.check(f"{file}:step", gradstep.RULES["SGD"])
    with pytest.raises(TypeError, match="parameter is a name in it"):
        gradstep.check(f"{file}:step", "sgd", parameter=gradstep.numpy.Parameter)
    with pytest.raises(ValueError, match="a process of its own"):
        gradstep.check(torch.optim.SGD, "sgd", time_limit=1.0)
    with pytest.raises(TypeError, match="is for a file"):
        gradstep.check(torch.optim.SGD, "sgd", parameter="Tensor")


def test_unknown_names_are_refused_with_the_nearest():
    with pytest.raises(ValueError, match=r"Unknown optimizer: 'adamv'. Did you mean 'adam"):
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
    with pytest.raises(ValueError, match=r"Unknown optimizer: 'adamm'\. Did you mean"):
        gradstep.conformance("adamm")

"""What the watch meets beside plain training: it breaks no run, accuses nobody, and says what it cannot judge."""

import copy

import pytest
import torch
from torch import nn

import gradstep
from gradstep.judge.updates.report import Result, UpdateReport, WatchReport
from gradstep.judge.updates.watch import RuleWatch
from tests.judge.test_watch import matrices, network, told, train, watched


def results(report):
    return {p.result for p in report.parameters}


def convolutions():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 4, 1))


def train_convolutions(model, optimizer, steps=4):
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(2, 3, 6, 6)).square().mean().backward()
        optimizer.step()


class FlatMuon(torch.optim.Optimizer):
    """A correct Muon: an axis for the outputs, and one for all others."""

    def __init__(self, params, **settings):
        super().__init__(params, {"lr": 0.02, "momentum": 0.9, "nesterov": True, "ns_steps": 5, **settings})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                momentum = state.setdefault("momentum_buffer", torch.zeros_like(p))
                momentum.lerp_(p.grad, 1 - group["momentum"])
                looked = p.grad.lerp(momentum, group["momentum"]).flatten(1)
                wide = looked if looked.shape[0] <= looked.shape[1] else looked.T
                wide = wide / wide.norm()
                for a, b, c in group.get("ns_coefficients", [(3.4445, -4.7750, 2.0315)] * 5):
                    gram = wide @ wide.T
                    wide = a * wide + (b * gram + c * gram @ gram) @ wide
                found = wide if looked.shape[0] <= looked.shape[1] else wide.T
                p.sub_(found.reshape(p.shape), alpha=group["lr"])


def test_a_muon_of_convolutions_is_muon():
    kind = type("Muon", (FlatMuon,), {})
    model = convolutions()
    optimizer = kind([p for p in model.parameters() if p.ndim > 1])
    with gradstep.watch_rules(optimizer) as watch:
        train_convolutions(model, optimizer)
    assert {(p.result, p.received) for p in watch.report.parameters} == {(Result.RIGHT, "Muon")}, str(watch.report)


def test_a_muon_with_a_triple_for_every_step_is_muon():
    kind = type("Muon", (FlatMuon,), {})
    model = network()
    triples = [(3.4, -4.7, 2.0), (3.5, -4.8, 2.1), (2.9, -3.9, 1.7), (1.5, -0.5, 0.0), (1.5, -0.5, 0.0)]
    report = watched(model, kind(matrices(model), ns_coefficients=triples))
    assert told(report)["0.weight"] == (Result.RIGHT, "Muon")


@pytest.mark.parametrize("name", ["AdamW", "Muon", "Mine"])
def test_adamw_of_convolutions_is_adamw_whatever_its_name(name):
    kind = type(name, (torch.optim.AdamW,), {})
    model = convolutions()
    optimizer = kind(model.parameters())
    with gradstep.watch_rules(optimizer, model=model) as watch:
        train_convolutions(model, optimizer)
    assert all("AdamW" in p.received for p in watch.report.parameters), str(watch.report)
    assert told(watch.report)["2.weight"][0] is {"AdamW": Result.RIGHT, "Muon": Result.WRONG, "Mine": Result.OPEN}[name]


def test_a_gradient_that_is_not_finite_is_a_step_for_torch():
    """What came before it is judged, and every other parameter."""
    ill, well = nn.Parameter(torch.ones(20)), nn.Parameter(torch.ones(20))
    optimizer = torch.optim.Adam([ill, well], lr=0.01)
    with gradstep.watch_rules(optimizer) as watch:
        for step in range(6):
            ill.grad = torch.full_like(ill, torch.inf) if step == 2 else torch.randn(20)
            well.grad = torch.randn(20)
            optimizer.step()
    assert results(watch.report) == {Result.RIGHT}, str(watch.report)


def test_a_gradient_that_is_never_finite_is_open():
    model = network()
    optimizer = torch.optim.Adam(model.parameters())
    report = watched(model, optimizer, between=lambda: model[0].weight.grad.fill_(torch.nan), steps=1)
    assert told(report)["0.weight"] == (Result.OPEN, "not judged: its gradients are not finite")


def test_a_gradient_in_float16_whose_sum_overflows_is_finite():
    p = nn.Parameter(torch.ones(64, dtype=torch.float16))
    optimizer = torch.optim.SGD([p], lr=1e-5, momentum=0.9)
    with gradstep.watch_rules(optimizer) as watch:
        for _ in range(4):
            p.grad = torch.full_like(p, 3e4 if optimizer.state else 2e3)
            optimizer.step()
    assert results(watch.report) == {Result.RIGHT}, str(watch.report)


def test_a_rate_in_a_tensor_that_a_schedule_writes_into_is_followed():
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=torch.tensor(0.02), foreach=False)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    with gradstep.watch_rules(optimizer, model=model) as watch:
        for _ in range(5):
            train(model, optimizer, steps=1)
            schedule.step()
    assert results(watch.report) == {Result.RIGHT}, str(watch.report)


def test_a_parameter_of_integers_is_no_error():
    counter = nn.Parameter(torch.zeros(3, dtype=torch.int64), requires_grad=False)
    model = network()
    report = watched(model, torch.optim.SGD([*model.parameters(), counter], lr=0.1))
    assert report.passed
    assert report.parameters[-1].result is Result.FROZEN


@pytest.mark.parametrize("inside", [True, False])
def test_sparse_gradients_are_open(inside):
    table = nn.Embedding(8, 4, sparse=True)
    optimizer = torch.optim.SGD(table.parameters(), lr=0.1)

    def closure():
        optimizer.zero_grad()
        loss = table(torch.tensor([1, 2])).square().sum()
        loss.backward()
        return loss

    with gradstep.watch_rules(optimizer, model=table) as watch:
        for _ in range(3):
            if inside:
                optimizer.step(closure)
            else:
                closure()
                optimizer.step()
    assert told(watch.report)["weight"] == (Result.OPEN, "not judged: its gradients are sparse")


@pytest.mark.parametrize("name", ["Adafactor", "Mine", "Muon"])
@pytest.mark.parametrize("setting", [{"lr": None}, {"momentum": None}, {"ns_coefficients": "quintic"}, {"lr": "fast"}])
def test_settings_that_are_no_numbers_are_open(name, setting):
    def step(self, closure=None):
        with torch.no_grad():
            for p in self.param_groups[0]["params"]:
                p.sub_(0.01 * p.grad.sign() * p.abs())

    kind = type(name, (torch.optim.Optimizer,), {"step": step})
    model = network()
    optimizer = kind(model.parameters(), {"lr": 0.02, **setting})
    report = watched(model, optimizer)
    assert len(report.parameters) == 4
    if "lr" in setting:
        assert results(report) == {Result.OPEN}, str(report)


def test_state_that_is_no_mapping_is_open():
    class SGD(torch.optim.SGD):
        def step(self, closure=None):
            super().step(closure)
            for p in self.param_groups[0]["params"]:
                self.state[p] = [1, 2]

    model = network()
    report = watched(model, SGD(model.parameters(), lr=0.1))
    assert results(report) == {Result.OPEN}
    assert "AttributeError" in report.parameters[0].received


@pytest.mark.parametrize("failing", [1, 3])
def test_a_step_that_raises_is_left(failing):
    class AdamW(torch.optim.AdamW):
        calls = 0

        def step(self, closure=None):
            self.calls += 1
            if self.calls == failing:
                with torch.no_grad():
                    self.param_groups[0]["params"][0].add_(1.0)
                raise torch.cuda.OutOfMemoryError("no memory")
            super().step()

    def once():
        try:
            train(model, optimizer, steps=1)
        except torch.cuda.OutOfMemoryError:
            model.zero_grad()

    model = network()
    optimizer = AdamW(model.parameters())
    with gradstep.watch_rules(optimizer, model=model) as watch:
        for _ in range(6):
            once()
    assert results(watch.report) == {Result.RIGHT}, str(watch.report)
    assert watch.report.steps == 5


def test_a_wrapper_around_a_step_that_raises_is_left_with_it():
    class Failing(torch.optim.SGD):
        def step(self, closure=None):
            raise RuntimeError("no memory")

    class SGD(torch.optim.SGD):
        def step(self, closure=None):
            with pytest.raises(RuntimeError, match="no memory"):
                inner.step()
            super().step()

    model = network()
    inner, optimizer = Failing(model[0].parameters(), lr=0.1), SGD(model[2].parameters(), lr=0.1)
    with gradstep.watch_rules(inner, optimizer, model=model) as watch:
        train(model, optimizer)
    assert told(watch.report)["2.weight"] == (Result.RIGHT, "SGD")
    assert told(watch.report)["0.weight"] == (Result.OPEN, "not judged: a step of its optimizer raised an error")


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.complex64])
def test_state_of_other_kinds_makes_the_comparison_no_coarser(dtype):
    class SGD(torch.optim.SGD):
        def step(self, closure=None):
            for group in self.param_groups:
                group["lr"] *= 0.9
            super().step()
            for group in self.param_groups:
                group["lr"] /= 0.9
                for p in group["params"]:
                    self.state[p]["seen"] = torch.zeros(p.shape, dtype=dtype)

    model = network()
    assert results(watched(model, SGD(model.parameters(), lr=0.1))) == {Result.WRONG}


@pytest.mark.parametrize("state", ["8bit", "bfloat16"])
def test_an_update_of_another_length_is_found_beside_state_of_few_bytes(state):
    def scale(factor):
        optimizer.param_groups[0]["lr"] *= factor

    model = network(width=1000)
    optimizer = gradstep.AdamW(model.parameters(), lr=0.01, weight_decay=0.0, state=state)
    with gradstep.watch_rules(optimizer, model=model) as watch:
        optimizer.register_step_pre_hook(lambda *_: scale(0.7))  # after the watch has seen the rate
        optimizer.register_step_post_hook(lambda *_: scale(1 / 0.7))
        train(model, optimizer, steps=10)
    result, received = told(watch.report)["0.weight"]
    assert result is Result.WRONG
    assert "0.7 times as long" in received, received


RESUMED = [
    ("SGD", {"momentum": 0.9, "dampening": 0.5}),
    ("SGD", {"momentum": 0.9}),
    ("Adafactor", {}),
    ("AdamW", {}),
]


@pytest.mark.parametrize(("name", "settings"), RESUMED)
def test_resumed_state_is_followed(name, settings):
    model = network()
    optimizer = getattr(torch.optim, name)(model.parameters(), lr=0.05, **settings)
    train(model, optimizer)
    report = watched(model, optimizer)
    assert results(report) == {Result.RIGHT}, str(report)


def test_resumed_state_of_complex_parameters_is_followed():
    p = nn.Parameter(torch.randn(40, dtype=torch.complex64))
    optimizer = torch.optim.AdamW([p], lr=0.01)

    def once():
        p.grad = torch.randn(40, dtype=torch.complex64)
        optimizer.step()

    once()
    with gradstep.watch_rules(optimizer) as watch:
        for _ in range(4):
            once()
    assert results(watch.report) == {Result.RIGHT}, str(watch.report)


def test_resumed_state_that_does_not_say_its_age_is_open_where_the_age_matters():
    class AdamW(torch.optim.AdamW):
        """Counts its steps elsewhere."""

        def step(self, closure=None):
            for p, count in self.__dict__.pop("counts", {}).items():
                self.state[p]["step"] = count
            super().step(closure)
            self.counts = {p: s.pop("step") for p, s in self.state.items()}

    model = network()
    optimizer = AdamW(model.parameters(), lr=0.01)
    train(model, optimizer)
    assert results(watched(model, optimizer)) == {Result.OPEN}


@pytest.mark.parametrize("library", [torch.optim, gradstep])
@pytest.mark.parametrize("at", [2, 4])
def test_state_that_is_loaded_in_mid_run_is_followed(library, at):
    model = network()
    optimizer = library.AdamW(model.parameters(), lr=0.01)
    with gradstep.watch_rules(optimizer, model=model) as watch:
        train(model, optimizer, steps=1)
        kept = copy.deepcopy(optimizer.state_dict())
        for step in range(6):
            if step == at:
                optimizer.load_state_dict(kept)
            train(model, optimizer, steps=1)
    assert results(watch.report) == {Result.RIGHT}, str(watch.report)


def test_a_watch_that_is_complete_keeps_what_it_saw():
    model = network()
    optimizer = torch.optim.AdamW(model.parameters())
    with gradstep.watch_rules(optimizer, model=model, steps=3) as watch:
        train(model, optimizer, steps=3)
        optimizer.load_state_dict(optimizer.state_dict())
    assert watch.report.passed
    with gradstep.watch_rules(optimizer, model=model) as watch:
        train(model, optimizer, steps=3)
        optimizer.load_state_dict(optimizer.state_dict())
    assert "its optimizer's state was loaded" in watch.report.parameters[0].received
    assert results(watch.report) == {Result.OPEN}


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_a_sign_that_8_bit_codes_turn_is_no_other_rule(weight_decay):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(96, 128), nn.LayerNorm(128), nn.Linear(128, 96))
    optimizer = gradstep.Lion8bit(model.parameters(), weight_decay=weight_decay)
    with gradstep.watch_rules(optimizer, model=model) as watch:
        for _ in range(12):
            optimizer.zero_grad()
            model(torch.randn(4, 96)).square().mean().backward()
            optimizer.step()
    assert results(watch.report) == {Result.RIGHT}, str(watch.report)


def test_a_forgotten_decay_is_called_that_at_small_rates():
    class Forgetful(torch.optim.AdamW):
        def step(self, closure=None):
            for group in self.param_groups:
                group["kept"], group["weight_decay"] = group["weight_decay"], 0.0
            super().step(closure)
            for group in self.param_groups:
                group["weight_decay"] = group.pop("kept")

    model = network()
    for p in (model[0].bias, model[2].bias):
        nn.init.zeros_(p)
    report = watched(model, type("AdamW", (Forgetful,), {})(model.parameters(), lr=1e-3, weight_decay=0.1), steps=10)
    assert {p.received for p in report.problems} == {"received the update of AdamW without weight decay"}, str(report)


def test_a_second_moment_that_underflows_in_float16_is_open():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 4)).half()
    optimizer = torch.optim.AdamW(model.parameters(), eps=1e-4)
    with gradstep.watch_rules(optimizer, model=model) as watch:
        for _ in range(6):
            optimizer.zero_grad()
            model(torch.randn(4, 8).half()).float().square().mean().backward()
            optimizer.step()
    assert results(watch.report) == {Result.OPEN}, str(watch.report)
    assert "its state underflows float16" in watch.report.parameters[0].received


@pytest.mark.filterwarnings("ignore:Using `torch.compile.module.` when there are global hooks")
def test_a_compiled_model_runs_under_the_watch_of_every_optimizer():
    model = nn.Linear(8, 4)
    compiled = torch.compile(model, backend="eager")
    optimizer = torch.optim.AdamW(model.parameters())
    watch = RuleWatch((), None, 5)
    for _ in range(3):
        optimizer.zero_grad()
        compiled(torch.randn(3, 8)).square().mean().backward()
        optimizer.step()
    watch.close()
    assert told(watch.report) == {"weight": (Result.RIGHT, "AdamW"), "bias": (Result.RIGHT, "AdamW")}


def test_the_headline_says_how_many_could_not_be_judged():
    rows = [UpdateReport(str(i), (2,), "Muon", "Muon", "", r) for i, r in enumerate([Result.RIGHT, Result.OPEN])]
    assert str(WatchReport(tuple(rows), 3)).splitlines()[0].endswith("in 3 steps. 1 could not be judged.")

"""Which rule updated which parameter: runs that keep what their optimizers promise, and runs with a silent bug."""

import pytest
import torch
from torch import nn

import gradstep
from gradstep.judge.updates.report import Result

TORCH = [name for name in gradstep.RULES if hasattr(torch.optim, name)]


def network(dtype=torch.float32, width=16, *, bias=True):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(width, 24, bias=bias), nn.ReLU(), nn.Linear(24, 8, bias=bias)).to(dtype)


def train(model, *optimizers, steps=5, between=lambda: None, **arguments):
    torch.manual_seed(1)
    first = next(model.parameters())
    for _ in range(steps):
        model.zero_grad()
        model(torch.randn(12, first.shape[1], dtype=first.dtype)).square().mean().backward()
        between()
        for optimizer in optimizers:
            optimizer.step(**arguments)


def watched(model, *optimizers, **options):
    with gradstep.watch_rules(*optimizers, model=model) as watch:
        train(model, *optimizers, **options)
    return watch.report


def matrices(model):
    return [p for p in model.parameters() if p.ndim == 2]


def told(report):
    return {p.name: (p.result, p.received) for p in report.parameters}


@pytest.mark.parametrize("name", TORCH)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_optimizer_of_torch_keeps_its_promise(name, dtype):
    model = network(dtype, bias=name != "Muon")
    report = watched(model, getattr(torch.optim, name)(model.parameters(), lr=0.01))
    assert {p.result for p in report.parameters} == {Result.RIGHT}, str(report)


def test_a_muon_that_climbs_keeps_its_promise():
    model = network(bias=False)
    report = watched(model, gradstep.Muon(model.parameters(), lr=0.01, maximize=True))
    assert {p.result for p in report.parameters} == {Result.RIGHT}, str(report)


@pytest.mark.parametrize("name", gradstep.RULES)
def test_every_optimizer_of_gradstep_keeps_its_promise(name):
    model = network(bias=gradstep.RULES[name].sees != "matrix")
    report = watched(model, getattr(gradstep, name)(model.parameters(), lr=0.01))
    # Roundings in bfloat16 decide rows of NorMuon's update, which is not judged.
    expected = Result.OPEN if name == "NorMuon" else Result.RIGHT
    assert {p.result for p in report.parameters} == {expected}, str(report)


@pytest.mark.parametrize(
    "settings",
    [
        {"amsgrad": True, "weight_decay": 0.3},
        {"maximize": True, "betas": (0.5, 0.9)},
        {"lr": torch.tensor(0.02), "foreach": False},
        {"fused": True, "eps": 1e-3},
    ],
)
def test_settings_are_part_of_the_promise(settings):
    model = network()
    assert watched(model, torch.optim.AdamW(model.parameters(), **settings)).passed


@pytest.mark.parametrize("arguments", [{"state": "8bit"}, {"state": "bfloat16"}, {"paged": True}])
def test_state_of_few_bytes_is_known_by_its_precision(arguments):
    model = network(width=1000)
    assert watched(model, gradstep.AdamW(model.parameters(), lr=0.01, **arguments), steps=10).passed


@pytest.mark.parametrize("name", ["AdamW", "Adam", "RMSprop", "Adagrad"])
def test_bfloat16_parameters_and_state_are_known_by_their_precision(name):
    model = network(torch.bfloat16)
    report = watched(model, getattr(torch.optim, name)(model.parameters(), lr=0.01), steps=20)
    assert report.passed, str(report)


def test_a_rate_that_changes_clipping_and_a_state_from_before_are_followed():
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    train(model, optimizer)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)

    def between():
        nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
        schedule.step()

    with pytest.warns(UserWarning, match="lr_scheduler"):
        assert watched(model, optimizer, between=between).passed


@pytest.mark.parametrize("options", [{"fused": True}, {"foreach": False}])
def test_scaled_gradients_and_skipped_steps_are_followed(options):
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, **options)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    with gradstep.watch_rules(optimizer, model=model) as watch:
        for step in range(6):
            optimizer.zero_grad()
            scaler.scale(model(torch.ones(3, 16)).square().mean()).backward()
            if step == 2:
                model[0].weight.grad.fill_(torch.inf)
            scaler.step(optimizer)
            scaler.update()
    assert {p.result for p in watch.report.parameters} == {Result.RIGHT}, str(watch.report)


def test_gradients_clipped_inside_the_step_are_followed():
    model = network()
    assert watched(model, gradstep.SGD(model.parameters(), lr=0.1), max_grad_norm=1e-3, grad_scale=8.0).passed


def test_a_step_that_is_left_out_for_a_gradient_that_is_not_finite_is_followed():
    model = network()
    first = iter([torch.inf])

    def between():
        model[0].weight.grad.add_(next(first, 0.0))

    optimizer = gradstep.AdamW(model.parameters())
    report = watched(model, optimizer, between=between, max_grad_norm=1.0)
    assert {p.result for p in report.parameters} == {Result.RIGHT}, str(report)


def test_gradients_that_a_closure_makes_inside_the_step_are_followed():
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)

    def closure():
        optimizer.zero_grad()
        loss = model(torch.ones(3, 16)).square().mean()
        loss.backward()
        return loss

    with gradstep.watch_rules(optimizer, model=model) as watch:
        for _ in range(4):
            optimizer.step(closure)
    assert {p.result for p in watch.report.parameters} == {Result.RIGHT}, str(watch.report)


class Muon(torch.optim.Optimizer):
    """By its name Muon; its groups without ``use_muon`` get SGD, as in a public bug."""

    def __init__(self, params, lr=0.02, momentum=0.95, weight_decay=0.0):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                p.sub_(p.grad, alpha=group["lr"])


def test_a_muon_that_was_sgd_is_named():
    model = network()
    report = watched(model, Muon(matrices(model)), torch.optim.AdamW([p for p in model.parameters() if p.ndim < 2]))
    assert [p.sentence for p in report.problems] == [
        "parameter 0.weight: named Muon, received SGD's update",
        "parameter 2.weight: named Muon, received SGD's update",
    ]
    assert report.exit_code == 1


@pytest.mark.parametrize("momentum", [0.0, 0.95])
def test_a_muon_that_was_sgd_is_named_where_gradients_have_rank_one(momentum):
    """A matrix of rank 1 is its own orthogonal one but for its length."""
    kind = type("Muon", (torch.optim.SGD,), {})
    model = nn.Linear(16, 24, bias=False)
    optimizer = kind(model.parameters(), lr=0.02, momentum=momentum)
    right = torch.optim.Muon((other := nn.Linear(16, 24, bias=False)).parameters(), lr=0.02)
    with gradstep.watch_rules(optimizer, right) as watch:
        for _ in range(4):
            (model(torch.ones(1, 16)).square().mean() + other(torch.ones(1, 16)).square().mean()).backward()
            optimizer.step()
            right.step()
            model.zero_grad()
            other.zero_grad()
    wrong, fine = watch.report.parameters
    assert wrong.result is Result.WRONG
    assert "SGD" in wrong.received
    assert fine.result is Result.RIGHT


def test_a_muon_of_which_every_parameter_went_to_adamw_is_named():
    class SingleDeviceMuonWithAuxAdam(torch.optim.AdamW):
        pass

    model = network()
    optimizer = SingleDeviceMuonWithAuxAdam([{"params": [*model.parameters()], "use_muon": False}], lr=0.01)
    report = watched(model, optimizer)
    assert [p.sentence for p in report.problems] == [
        "parameter 0.weight: named Muon, received AdamW's update",
        "parameter 2.weight: named Muon, received AdamW's update",
    ]


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("settings", [{}, {"momentum": 0.5, "adjust_lr_fn": "match_rms_adamw", "weight_decay": 0.0}])
def test_torch_s_muon_is_muon_in_float32(nesterov, settings):
    model = network()
    report = watched(model, torch.optim.Muon(matrices(model), lr=0.02, nesterov=nesterov, **settings))
    assert told(report)["0.weight"] == (Result.RIGHT, "Muon")


def test_torch_s_muon_overwrites_its_momentum_in_bfloat16_without_nesterov():
    """torch 2.13: ``update = buf`` is orthogonalised in place where ``.bfloat16()`` returns the same tensor."""
    model = network(torch.bfloat16)
    report = watched(model, torch.optim.Muon(matrices(model), lr=0.02, nesterov=False))
    result, received = told(report)["0.weight"]
    assert result is Result.WRONG
    assert "Muon that divides its own momentum by its norm at every step" in received
    model = network(torch.bfloat16)
    report = watched(model, torch.optim.Muon(matrices(model), lr=0.02, nesterov=True))
    assert told(report)["0.weight"] == (Result.RIGHT, "Muon")


def test_a_rule_with_a_known_mistake_is_named_by_it():
    torch.optim.Adam(network().parameters())  # torch has hooked its step, which is then called inside another's

    class AdamW(torch.optim.Adam):  # the decay of Adam under the name of AdamW
        def step(self, closure=None):
            for group in self.param_groups:
                for p in group["params"]:
                    p.grad.add_(p.detach(), alpha=0.3)
                group["weight_decay"] = 0.0
            super().step(closure)
            for group in self.param_groups:
                group["weight_decay"] = 0.3

    model = network()
    optimizer = AdamW(model.parameters(), lr=0.01, weight_decay=0.3)
    report = watched(model, optimizer)
    assert "AdamW with the decay added to the gradient" in report.problems[0].received


@pytest.mark.parametrize("name", ["RMSprop", "Adagrad", "AdamW", "NAdam", "Adamax"])
def test_a_step_that_is_another_rule_s_is_named(name):
    kind = type("SGD", (getattr(torch.optim, name),), {})
    model = network()
    report = watched(model, kind(model.parameters(), lr=0.01))
    assert {p.received for p in report.problems} == {f"received {name}'s update"}


def test_a_name_that_stands_for_no_rule_promises_nothing_and_is_told_its_rule():
    class Mine(torch.optim.AdamW):
        pass

    model = network()
    report = watched(model, Mine(model.parameters()))
    assert {(p.promised, p.received, p.result) for p in report.parameters} == {
        ("", "received AdamW's update", Result.OPEN)
    }
    assert report.exit_code == 2


def test_an_update_of_another_length_is_told_with_its_factor():
    class SGD(torch.optim.SGD):
        def step(self, closure=None):
            for group in self.param_groups:
                group["lr"] *= 0.25
            super().step()
            for group in self.param_groups:
                group["lr"] *= 4

    model = network()
    report = watched(model, SGD(model.parameters(), lr=0.1))
    assert {p.received for p in report.problems} == {"received the update of SGD, 0.25 times as long"}


def test_what_no_optimizer_updates_is_found():
    model = network()
    model[2].bias.requires_grad_(False)
    first = model[0]
    optimizer = torch.optim.AdamW([{"params": [first.weight]}, {"params": [first.bias], "lr": 0.0}])  # type: ignore[arg-type]
    report = watched(model, optimizer)
    assert told(report) == {
        "0.weight": (Result.RIGHT, "AdamW"),
        "0.bias": (Result.FROZEN, "frozen: its group's learning rate is 0"),
        "2.weight": (Result.UNSTEPPED, "held by no optimizer, though it needs a gradient"),
        "2.bias": (Result.FROZEN, "frozen: it needs no gradient"),
    }


@pytest.mark.parametrize(
    ("steps", "result", "received"),
    [
        (1, Result.OPEN, "not judged: the learning rate was 0 in the only step that was watched"),
        (4, Result.UNSTEPPED, "not moved: the learning rate was 0 in all of its 4 steps"),
    ],
)
def test_a_learning_rate_of_0_everywhere_is_the_reason(steps, result, received):
    # One such step is how most warmups begin; more of them are a schedule that does not move.
    model = network()
    report = watched(model, torch.optim.SGD(model.parameters(), lr=0.0), steps=steps)
    assert {*told(report).values()} == {(result, received)}


def test_a_warmup_from_0_is_followed():
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: step / 10)
    optimizer.register_step_post_hook(lambda *_: schedule.step())
    assert watched(model, optimizer).passed


def test_an_optimizer_of_another_model_s_parameters_is_found():
    model, before = network(), network()
    report = watched(model, torch.optim.AdamW(before.parameters()))
    assert {p.result for p in report.parameters} == {Result.UNSTEPPED}
    assert "not a parameter of the model that runs" in str(report)


def test_two_optimizers_on_one_parameter_are_found_and_a_wrapper_is_not_taken_for_one():
    model = network()
    one, other = torch.optim.SGD(model.parameters(), lr=0.1), torch.optim.AdamW([model[0].weight])
    report = watched(model, one, other)
    assert told(report)["0.weight"] == (Result.WRONG, "updated by two optimizers")
    assert told(report)["0.bias"] == (Result.RIGHT, "SGD")

    class Lookahead(torch.optim.Optimizer):
        def __init__(self, inner):
            self.inner = inner
            super().__init__(inner.param_groups, {})

        def step(self, closure=None):
            self.inner.step()

    model = network()
    inner = torch.optim.AdamW(model.parameters())
    outer = Lookahead(inner)
    with gradstep.watch_rules(inner, outer, model=model) as watch:
        train(model, outer)
    assert {p.result for p in watch.report.parameters} == {Result.RIGHT}, str(watch.report)


def test_optimizers_that_train_one_after_the_other_are_judged_each():
    model = network()
    kinds = [torch.optim.Adam, torch.optim.Adam, type("Lion", (torch.optim.SGD,), {})]
    made = [kind(model.parameters(), lr=0.01) for kind in kinds]
    for count, results in ((2, {(Result.RIGHT, "Adam")}), (3, {(Result.WRONG, "received SGD's update")})):
        with gradstep.watch_rules(*made[:count], model=model) as watch:
            for optimizer in made[:count]:
                train(model, optimizer, steps=25)
        assert {*told(watch.report).values()} == results, watch.report
        assert watch.report.parameters[0].optimizer == ", then ".join(("Adam", "Lion")[: count - 1])


def test_a_step_that_is_replaced_is_found():
    model = network()
    optimizer = torch.optim.AdamW(model.parameters())

    def step(closure=None):
        with torch.no_grad():
            for p in model.parameters():
                p.sub_(p.grad)

    optimizer.step = step  # type: ignore[method-assign]
    report = watched(model, optimizer)
    assert {p.received for p in report.problems} == {"changed, though no step of its optimizer was made"}


def test_no_step_is_no_verdict_and_bad_arguments_are_refused():
    model = network()
    with gradstep.watch_rules() as watch:
        pass
    assert watch.report.exit_code == 2
    assert "NOTHING SEEN" in str(watch.report)
    with pytest.raises(TypeError, match=r"only a torch\.optim\.Optimizer can be watched, not Sequential"):
        gradstep.watch_rules(model)
    with pytest.raises(ValueError, match="steps must be at least 1"):
        gradstep.watch_rules(torch.optim.SGD(model.parameters()), steps=0)
    for steps in ("x", None, True, 2.5):
        with pytest.raises(TypeError, match=f"steps must be an integer, at least 1, but is {steps!r}"):
            gradstep.watch_rules(torch.optim.SGD(model.parameters()), steps=steps)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module or None, but is 'x'"):
        gradstep.watch_rules(torch.optim.SGD(model.parameters()), model="x")  # type: ignore[arg-type]

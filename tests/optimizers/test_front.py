"""What every torch.optim.Optimizer offers, and torch's schedulers on top of it."""

import copy
import inspect
import io
import pickle
from typing import Any

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

import gradstep
from gradstep.engines.statistics import Observer
from tests.registry import cases, subjects
from tests.training import (
    assert_near,
    assert_same,
    assert_same_bits,
    give,
    gradients,
    leaves,
    normal,
    starts,
    trained,
    walk,
)


def two(kind, **options):
    """An optimizer of two parameters in two groups."""
    first, second = normal(5).requires_grad_(), normal(3, seed=1).requires_grad_()
    return kind([{"params": [first]}, {"params": [second], "lr": 0.5}], **options), [first, second]


def steps(count, first=1):
    return [[normal(5, seed=10 * t), normal(3, seed=10 * t + 1)] for t in range(first, first + count)]


OWN = ("engine", "state", "rounding", "seed", "paged", "page_budget", "model")


@pytest.mark.parametrize("subject", subjects(in_torch=True))
def test_torch_s_arguments_order_and_defaults(subject):
    """Positional arguments mean the same: every one of torch's that is about mathematics, where torch has it."""
    execution = {"foreach", "fused", "capturable", "differentiable"}
    ours = dict(inspect.signature(subject.optimizer).parameters)
    theirs = {n: p for n, p in inspect.signature(subject.torch).parameters.items() if n not in execution}
    assert {n: ours.pop(n).default for n in sorted(execution)} == {
        "capturable": False,
        "differentiable": False,
        "foreach": None,
        "fused": None,
    }
    assert {name: ours.pop(name).default for name in OWN} == {
        "engine": "auto",
        "state": "float32",
        "rounding": "nearest",
        "seed": None,
        "paged": False,
        "page_budget": None,
        "model": None,
    }
    for name in subject.rule.beyond_torch:
        assert ours.pop(name).kind is inspect.Parameter.KEYWORD_ONLY
    assert ours.keys() == theirs.keys()
    assert {n: p.default for n, p in ours.items()} == {n: p.default for n, p in theirs.items()}
    by_place = [n for n, p in ours.items() if p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    assert by_place == [n for n, p in theirs.items() if p.kind is p.POSITIONAL_OR_KEYWORD][: len(by_place)]


def test_positional_settings():
    group = gradstep.AdamW([normal(1).requires_grad_()], 0.5, (0.5, 0.75), 1e-3, 0.1, True).param_groups[0]
    assert (group["lr"], group["betas"], group["eps"], group["weight_decay"], group["amsgrad"]) == (
        0.5,
        (0.5, 0.75),
        1e-3,
        0.1,
        True,
    )


@pytest.mark.parametrize("subject", subjects())
def test_it_is_a_torch_optimizer(subject):
    optimizer = subject.optimizer([normal(3).requires_grad_()])
    assert isinstance(optimizer, torch.optim.Optimizer)
    assert isinstance(optimizer, gradstep.Optimizer)
    assert type(optimizer) is gradstep.optimizer(subject.rule)
    assert gradstep.OPTIMIZERS[subject.name.lower()] is type(optimizer)
    assert f"{subject.name} (" in repr(optimizer)
    assert (inspect.getdoc(type(optimizer)) or "").startswith(inspect.getdoc(subject.rule) or "no docstring")


def test_groups_with_their_own_settings():
    pairs = []
    for kind in (gradstep.AdamW, torch.optim.AdamW):
        params = leaves(starts([(5,), (3,), (4,)]))
        groups: list[Any] = [
            {"params": params[:1]},
            {"params": params[1:2], "lr": 0.5, "betas": (0.5, 0.75)},
            {"params": params[2:], "weight_decay": 0.3, "amsgrad": True, "maximize": True},
        ]
        walk(kind(groups, lr=0.1), params, gradients(10, [(5,), (3,), (4,)]))
        pairs.append(params)
    for p, q in zip(*pairs, strict=True):
        assert_near(p, q, ulps=8)


def test_groups_do_not_mix():
    """Each group alone gives the same bits as together."""
    optimizer, params = two(gradstep.AdamW, lr=0.1)
    walk(optimizer, params, steps(4))
    for i, (p, lr) in enumerate(zip(params, (0.1, 0.5), strict=True)):
        start = [normal(5), normal(3, seed=1)][i]
        _, [alone] = trained(gradstep.AdamW, [start], [[g[i]] for g in steps(4)], lr=lr)
        assert_same_bits(p, alone)


def test_named_parameters():
    model = torch.nn.Linear(3, 2)
    optimizer = gradstep.AdamW(model.named_parameters())
    assert optimizer.param_groups[0]["param_names"] == ["weight", "bias"]
    assert [name for name, _, _ in optimizer.engines()] == ["weight", "bias"]
    model.bias.grad = torch.full((2,), float("inf"))
    optimizer.step(max_grad_norm=1.0)
    assert optimizer.last_step
    assert optimizer.last_step.reason == "the gradient of bias is not finite"
    assert optimizer.state_dict()["param_groups"][0]["param_names"] == ["weight", "bias"]


@pytest.mark.parametrize("name", [0, None, b"w", ("block", 0), "", "\ud800"])
def test_names_may_be_any_objects_as_in_torch(name):
    w = torch.ones(64, 64, requires_grad=True)
    w.grad = torch.full((64, 64), float("nan"))
    named: Any = [(name, w)]
    optimizer = gradstep.AdamW(named, state="8bit")
    assert optimizer.param_groups[0]["param_names"] == torch.optim.AdamW(named).param_groups[0]["param_names"] == [name]
    optimizer.step(max_grad_norm=1.0)
    assert optimizer.last_step
    assert optimizer.last_step.reason == f"the gradient of {name} is not finite"
    w.grad = torch.ones(64, 64)
    optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())
    assert optimizer.state[w]["step"] == 1


def test_closure_runs_with_gradients_enabled_and_its_loss_is_returned():
    p = normal(5).requires_grad_()
    optimizer = gradstep.SGD([p], lr=0.1)

    def closure():
        optimizer.zero_grad()
        assert torch.is_grad_enabled()
        loss = (p * p).sum()
        loss.backward()
        return loss

    before = p.detach().clone()
    with torch.no_grad():
        loss = optimizer.step(closure)
    assert_same_bits(loss, (before * before).sum())
    assert_near(p, before - 0.2 * before, ulps=2)
    assert optimizer.step() is None


def test_a_closure_that_raises_changes_nothing():
    optimizer, params = two(gradstep.AdamW)
    walk(optimizer, params, steps(1))
    before = [(n, t.clone()) for n, t in enumerate(params)]
    with pytest.raises(ZeroDivisionError):
        optimizer.step(lambda: 1 / 0)
    for n, t in before:
        assert_same_bits(params[n], t)


def test_hooks():
    optimizer, params = two(gradstep.AdamW)
    calls = []
    before = optimizer.register_step_pre_hook(lambda o, args, kwargs: calls.append(("pre", kwargs)))
    after = optimizer.register_step_post_hook(lambda o, args, kwargs: calls.append(("post", o.last_step.stepped)))
    give(params, steps(1)[0])
    optimizer.step(max_grad_norm=1.0)
    assert calls == [("pre", {"max_grad_norm": 1.0}), ("post", True)]
    before.remove()
    after.remove()
    optimizer.step()
    assert len(calls) == 2


def test_a_hook_sees_what_was_given_and_may_change_it():
    optimizer, params = two(gradstep.SGD)
    give(params, steps(1)[0])
    before = [p.detach().clone() for p in params]
    optimizer.register_step_pre_hook(lambda o, args, kwargs: (args, {**kwargs, "grad_scale": 4.0}))
    assert optimizer.step(lambda: 7.0) == 7.0
    for p, old in zip(params, before, strict=True):
        lr = next(g["lr"] for g in optimizer.param_groups if any(q is p for q in g["params"]))
        torch.testing.assert_close(p.detach(), old - lr * p.grad / 4.0)


def test_hooks_of_all_optimizers():
    optimizer, params = two(gradstep.AdamW)
    give(params, steps(1)[0])
    calls = []
    hook = register_optimizer_step_post_hook(lambda o, *_: calls.append(o))
    optimizer.step()
    hook.remove()
    optimizer.step()
    assert calls == [optimizer]


class Told(Observer):
    """Keeps what it is told."""

    def __init__(self):
        self.calls = []

    def before(self, *, closure):
        self.calls.append(closure)

    def after(self, report):
        self.calls.append(report)


def test_observers_are_told_inside_hooks_of_every_step_that_ends():
    optimizer, params = two(gradstep.AdamW)
    one, other = Told(), Told()
    handle = optimizer.register_observer(one)
    optimizer.register_observer(other)
    hook = optimizer.register_step_pre_hook(lambda o, args, kwargs: one.calls.append("hook"))
    give(params, steps(1)[0])
    optimizer.step()
    assert one.calls == ["hook", False, optimizer.last_step]
    assert [rule.lr for rule in optimizer.last_step.rules] == [group["lr"] for group in optimizer.param_groups]
    handle.remove()
    hook.remove()
    with pytest.raises(ZeroDivisionError):
        optimizer.step(lambda: 1 / 0)
    params[0].grad[0] = float("nan")
    optimizer.step(max_grad_norm=1.0)
    assert len(one.calls) == 3
    assert other.calls[2:4] == [True, False]
    assert not other.calls[-1].stepped
    assert len(other.calls) == 5
    copy.deepcopy(optimizer).step()
    assert len(other.calls) == 5, "a copy is not observed"


def test_an_observer_may_go_in_the_middle_of_a_step():
    optimizer, params = two(gradstep.SGD)
    give(params, steps(1)[0])

    class Once(Told):
        def after(self, report):
            super().after(report)
            handle.remove()

    once, other = Once(), Told()
    handle = optimizer.register_observer(once)
    optimizer.register_observer(other)
    optimizer.step()
    optimizer.step()
    assert len(once.calls) == 2
    assert len(other.calls) == 4


def test_a_profiler_is_told_the_name():
    optimizer, params = two(gradstep.AdamW)
    give(params, steps(1)[0])
    with torch.profiler.profile() as profile:
        optimizer.step()
    assert "Optimizer.step#AdamW.step" in {event.name for event in profile.events()}


@pytest.mark.parametrize("engine", ["fused", "eager", "foreach", "reference"])
def test_a_backward_pass_over_values_that_a_step_has_changed_raises(engine):
    """torch sees by a tensor's version that a graph was recorded with other numbers; a kernel must not hide it."""
    p = normal(3).requires_grad_()
    loss = (p**2).sum()
    loss.backward(retain_graph=True)
    gradstep.AdamW([p], engine=engine).step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_every_class_has_its_own_hooked_step():
    """torch patches ``step`` of the class that is made first; a subclass of a user must be patched once, not twice."""

    class Mine(gradstep.AdamW):  # type: ignore[misc] # final for checkers alone
        pass

    p = normal(2).requires_grad_()
    optimizer = Mine([p], lr=0.1)
    calls = []
    optimizer.register_step_post_hook(lambda *_: calls.append(1))
    give([p], [normal(2)])
    optimizer.step()
    assert calls == [1]


@pytest.mark.parametrize("set_to_none", [True, False])
def test_zero_grad(set_to_none):
    optimizer, params = two(gradstep.AdamW)
    for t in range(3):
        for p in params:
            (p * (t + 1.0)).sum().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=set_to_none)
        assert all(p.grad is None if set_to_none else not p.grad.any() for p in params)
    assert [int(optimizer.state[p]["step"]) for p in params] == [3, 3]


SCHEDULES = {
    "OneCycleLR": lambda o: torch.optim.lr_scheduler.OneCycleLR(o, max_lr=0.3, total_steps=12),
    "CosineAnnealingLR": lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, T_max=10),
    "LambdaLR": lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda t: 0.9**t),
    "CyclicLR": lambda o: torch.optim.lr_scheduler.CyclicLR(o, 0.01, 0.3, step_size_up=3),
    "SequentialLR": lambda o: torch.optim.lr_scheduler.SequentialLR(
        o,
        [torch.optim.lr_scheduler.LinearLR(o, 0.1, 1.0, 3), torch.optim.lr_scheduler.ExponentialLR(o, 0.9)],
        milestones=[3],
    ),
}


@pytest.mark.parametrize("tensor_lr", [False, True])
@pytest.mark.parametrize("name", ["SGD", "AdamW"])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_schedulers(schedule, name, tensor_lr):
    results = []
    for package in (gradstep, torch.optim):
        options = {"momentum": 0.9} if name == "SGD" else {}
        lr = torch.tensor(0.1) if tensor_lr else 0.1
        params = [normal(5).requires_grad_()]
        optimizer = getattr(package, name)(params, lr=lr, **options)
        scheduler = SCHEDULES[schedule](optimizer)
        rates = []
        for t in range(10):
            walk(optimizer, params, [[normal(5, seed=t)]])
            scheduler.step()
            group = optimizer.param_groups[0]
            rates.append((float(group["lr"]), group.get("momentum"), group.get("betas")))
        results.append((params[0], rates))
    (ours, our_rates), (theirs, their_rates) = results
    assert our_rates == their_rates
    assert len({r[0] for r in our_rates}) > 1
    if schedule in ("OneCycleLR", "CyclicLR"):
        assert len({r[1:] for r in our_rates}) > 1, "the momentum was to be cycled"
    assert_near(ours, theirs, ulps=8)


def test_tensor_lr_is_the_user_s_own_tensor():
    lr = torch.tensor(0.25)
    optimizer, params = two(gradstep.SGD, lr=lr)
    assert optimizer.param_groups[0]["lr"] is lr
    lr.fill_(0.0)
    before = params[0].detach().clone()
    walk(optimizer, params, steps(1))
    assert_same_bits(params[0], before)


def copied(optimizer, params):
    return copy.deepcopy((optimizer, params))


def pickled(optimizer, params):
    return pickle.loads(pickle.dumps((optimizer, params)))


def saved(optimizer, params):
    file = io.BytesIO()
    torch.save((optimizer, params), file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("way", [copied, pickled, saved])
@pytest.mark.parametrize(("subject", "options"), cases()[::2])
def test_copies_go_on_alone_and_alike(subject, options, way):
    optimizer, params = two(subject.optimizer, **options)
    walk(optimizer, params, steps(2))
    other, others = way(optimizer, params)
    assert type(other) is type(optimizer)
    assert other.param_groups[0]["params"][0] is others[0]
    assert_same(other, optimizer)
    walk(other, others, steps(2, first=3))
    assert [int(optimizer.state[p]["step"]) for p in params] == [2, 2]
    walk(optimizer, params, steps(2, first=3))
    assert_same(other, optimizer)


def test_a_copy_keeps_its_engine():
    optimizer, params = two(gradstep.AdamW, engine="eager")
    other, _ = pickled(optimizer, params)
    assert [engine for _, engine, _ in other.engines()] == ["eager", "eager"]


def test_engines_says_what_and_why():
    params = [normal(3), normal(4, 6)[:, ::2], normal(3) + 0j]
    optimizer = gradstep.AdamW([p.requires_grad_() for p in params])
    named = [(engine, reason) for _, engine, reason in optimizer.engines()]
    assert named == [
        ("fused", "a dense float32 tensor on the CPU"),
        ("eager", "not fused or foreach because its memory has gaps or overlaps"),
        (
            "foreach",
            "not fused because the kernel has no codec for complex64 (it has float32, float64, float16, bfloat16)",
        ),
    ]


@pytest.mark.parametrize("form", ["tensors", "generator", "groups", "named", "single"])
def test_ways_to_give_parameters(form):
    a, b = normal(2).requires_grad_(), normal(3).requires_grad_()
    given: Any = {
        "tensors": [a, b],
        "generator": (p for p in (a, b)),
        "groups": [{"params": iter([a])}, {"params": b}],
        "named": [("a", a), ("b", b)],
        "single": [{"params": [("a", a), ("b", b)]}],
    }[form]
    optimizer = gradstep.SGD(given, lr=1.0)
    walk(optimizer, [a, b], [[torch.ones(2), torch.ones(3)]])
    assert_near(a, normal(2) - 1, ulps=1)
    assert_near(b, normal(3) - 1, ulps=1)


@pytest.mark.filterwarnings("ignore::UserWarning:torch", "ignore::DeprecationWarning")
def test_a_compiled_training_step_trains_the_same():
    """torch.compile around the whole step: the optimizer's part of it runs as it is."""

    def trained_by(compile_it):
        torch.manual_seed(0)
        model = torch.nn.Linear(3, 2)
        optimizer = gradstep.AdamW(model.parameters(), lr=0.1)

        def train():
            model(torch.ones(4, 3)).square().mean().backward()
            optimizer.step(max_grad_norm=1.0)
            optimizer.zero_grad()

        run = torch.compile(train, backend="eager") if compile_it else train
        for _ in range(3):
            run()
        assert optimizer.state[model.weight]["step"] == 3
        return list(model.parameters())

    for p, q in zip(trained_by(True), trained_by(False), strict=True):
        assert_same_bits(p.detach(), q.detach())


class Derived(gradstep.AdamW):  # type: ignore[misc]  # final for type checkers, not for Python
    """A class of a user's own."""


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))])
@pytest.mark.parametrize("kind", [Derived, gradstep.AdamW, gradstep.PagedAdamW8bit])
def test_a_copy_is_of_the_same_class(kind, copied):
    w = torch.ones(3, requires_grad=True)
    w.grad = torch.ones(3)
    optimizer = kind([w])
    optimizer.step()
    assert type(copied(optimizer)) is kind
    assert copied(optimizer).state_dict()["state"][0]["step"] == 1

"""What a monitor sees between two steps: gradients not cleared, other optimizers, steps that find no gradient."""

import copy
import gc
import weakref

import pytest
import torch
from torch.optim import optimizer as torch_optimizer

import gradstep
from gradstep.monitor import JsonLines, read_run

MAKE = {
    "gradstep": lambda p: gradstep.AdamW(p, lr=1e-3),
    "torch": lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9),
    "torch RMSprop": lambda p: torch.optim.RMSprop(p, lr=1e-3),
}


def trained(make, loop, folder, updates=20):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))
    optimizer = make(model.parameters())
    with gradstep.Monitor(optimizer, model=model, sinks=[JsonLines(folder)]) as monitor:
        for update in range(updates):

            def loss():
                x = torch.randn(16, 4)
                return (model(x) - x.sum(1, keepdim=True)).square().mean()

            monitor.log(loss=loop(update, model, optimizer, loss))
    return model, read_run(folder).updates, [f.cause.name for f in gradstep.diagnose(folder).findings]


def usual(update, model, optimizer, loss):
    optimizer.zero_grad()
    value = loss()
    value.backward()
    optimizer.step()
    return value


def never(update, model, optimizer, loss):
    value = loss()
    value.backward()
    optimizer.step()
    return value


def clipped(update, model, optimizer, loss):
    value = loss()
    value.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
    optimizer.step()
    return value


def zeros(update, model, optimizer, loss):
    value = loss()
    value.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=False)
    return value


def accumulated(update, model, optimizer, loss):
    model.zero_grad()
    (loss() / 3).backward()
    value = loss() / 3
    value.backward()
    optimizer.step()
    return value


def accumulated_never(update, model, optimizer, loss):
    (loss() / 3).backward()
    value = loss() / 3
    value.backward()
    optimizer.step()
    return value


def two_losses(update, model, optimizer, loss):
    """The first backward pass of an update reaches gradients that are cleared only before the second (a GAN's)."""
    loss().backward()
    optimizer.zero_grad()
    value = loss()
    value.backward()
    optimizer.step()
    return value


def closure(update, model, optimizer, loss):
    def again():
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    return optimizer.step(again)


@pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)
@pytest.mark.parametrize("loop", [usual, zeros, accumulated, two_losses, closure])
def test_cleared_gradients_raise_no_alarm(loop, make, tmp_path):
    _, updates, causes = trained(make, loop, tmp_path)
    assert not any(update.uncleared for update in updates)
    assert not {"gradients_not_cleared", "step_without_gradient", "stepped_twice"} & set(causes)


@pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)
@pytest.mark.parametrize("loop", [never, clipped, accumulated_never])
def test_gradients_that_are_never_cleared_are_seen(loop, make, tmp_path):
    _, updates, causes = trained(make, loop, tmp_path)
    assert [update.uncleared for update in updates] == [None] + [True] * 19
    assert causes[0] == "gradients_not_cleared"


def step_first(update, model, optimizer, loss):
    value = loss()
    optimizer.zero_grad()
    optimizer.step()
    value.backward()
    return value


def cleared_too_late(update, model, optimizer, loss):
    value = loss()
    value.backward()
    optimizer.zero_grad(set_to_none=update % 2 == 0)
    optimizer.step()
    return value


def backward_missing(update, model, optimizer, loss):
    optimizer.zero_grad()
    value = loss()
    optimizer.step()
    return value


@pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)
@pytest.mark.parametrize("loop", [step_first, cleared_too_late, backward_missing])
def test_steps_that_find_no_gradient(loop, make, tmp_path):
    assert trained(make, loop, tmp_path)[2][0] == "step_without_gradient"


@pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)
def test_a_second_optimizer_of_the_same_weights(make, tmp_path):
    others: dict[str, torch.optim.Optimizer] = {}

    def loop(update, model, optimizer, loss):
        other = others.setdefault("sgd", torch.optim.SGD(model[2:].parameters(), lr=1e-3))
        value = usual(update, model, optimizer, loss)
        other.step()
        return value

    _, updates, causes = trained(make, loop, tmp_path)
    assert [update.other_optimizer for update in updates] == [""] + ["SGD"] * 19
    assert causes[0] == "stepped_twice"


def test_optimizers_of_other_weights_and_inner_ones_are_none(tmp_path):
    class Wrapper(torch.optim.Optimizer):
        """Steps another optimizer of the same parameters, as Lookahead does."""

        def __init__(self, params):
            super().__init__(params, {"lr": 1e-2})
            self.inner = torch.optim.SGD(self.param_groups[0]["params"], lr=1e-2)

        def step(self, closure=None):
            self.inner.step()

    def loop(update, model, optimizer, loss):
        foreign = torch.nn.Parameter(torch.ones(2))
        foreign.grad = torch.ones(2)
        torch.optim.SGD([foreign], lr=1.0).step()
        return usual(update, model, optimizer, loss)

    _, updates, _ = trained(Wrapper, loop, tmp_path / "outer")
    assert not any(update.other_optimizer for update in updates)
    wrapper = []

    def inner(params):
        wrapper.append(Wrapper(params))
        return wrapper[0].inner

    def outer(update, model, optimizer, loss):
        optimizer.zero_grad()
        value = loss()
        value.backward()
        wrapper[0].step()
        return value

    _, updates, _ = trained(inner, outer, tmp_path / "inner")
    assert len(updates) == 20
    assert not any(update.other_optimizer for update in updates)


def test_hooks_leave_with_the_monitor(tmp_path):
    known = len(torch_optimizer._global_optimizer_post_hooks)
    model, _, _ = trained(MAKE["torch"], usual, tmp_path / "closed")
    assert not any(p._backward_hooks for p in model.parameters())
    assert len(torch_optimizer._global_optimizer_post_hooks) == known
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    gradstep.Monitor(optimizer, sinks=[JsonLines(tmp_path / "dropped")])
    weight.sum().backward()
    optimizer.step()
    copy.deepcopy(optimizer)
    gone = weakref.ref(optimizer)
    del optimizer
    gc.collect()
    assert gone() is None
    assert len(torch_optimizer._global_optimizer_post_hooks) == known


@pytest.mark.parametrize("held", ["all", "not the last bias"])
def test_parameters_that_another_optimizer_trains_are_not_missing(tmp_path, held):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))
    matrices = [p for p in model.parameters() if p.ndim == 2]
    vectors = [p for p in model.parameters() if p.ndim == 1][: None if held == "all" else -1]
    optimizers = [gradstep.SGD(matrices, lr=1e-2), torch.optim.AdamW(vectors, lr=1e-3)]
    folders = [tmp_path / "matrices", tmp_path / "vectors"]
    monitors = [gradstep.Monitor(o, model=model, sinks=[JsonLines(f)]) for o, f in zip(optimizers, folders)]
    for _ in range(20):
        x = torch.randn(16, 4)
        loss = (model(x) - x.sum(1, keepdim=True)).square().mean()
        model.zero_grad()
        loss.backward()
        for optimizer, monitor in zip(optimizers, monitors):
            optimizer.step()
            monitor.log(loss=loss)
    for monitor, folder in zip(monitors, folders):
        monitor.close()
        missing = [] if held == "all" else ["2.bias"]
        assert [p.name for p in read_run(folder).header.unregistered] == missing
        assert len(read_run(folder).updates) == 20
        findings = {f.cause.name for f in gradstep.diagnose(folder).findings}
        assert ("not_registered" in findings) == bool(missing)

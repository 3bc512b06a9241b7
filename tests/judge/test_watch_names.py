"""Names of updates that were not promised: found for many parameters at once, as for each alone."""

import pytest
import torch
from torch import nn

import gradstep
from gradstep.judge.updates import candidates
from gradstep.judge.updates.candidates import find_promise
from gradstep.judge.updates.matching import judge


class Mixed(torch.optim.Optimizer):
    """Its parameters in turn: SGD, AdamW without bias corrections, the sign of the gradient, nothing known."""

    def __init__(self, params, lr=0.01):
        super().__init__(params, {"lr": lr, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0})
        self.kinds = [p for group in self.param_groups for p in group["params"]]

    @torch.no_grad()
    def step(self, closure=None):
        for i, p in enumerate(self.kinds):
            state = self.state[p]
            if not state:
                state |= {"step": 0, "exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
            state["step"] += 1
            state["exp_avg"].lerp_(p.grad, 0.1)
            state["exp_avg_sq"].lerp_(p.grad.square(), 0.001)
            kind = i // 2 % 4
            if kind == 0:
                p.sub_(p.grad, alpha=0.01)
            elif kind == 1:
                p.addcdiv_(state["exp_avg"], state["exp_avg_sq"].sqrt() + 1e-8, value=-0.01)
            elif kind == 2:
                p.sub_(p.grad.sign(), alpha=0.01)
            else:
                p.sub_(p.grad.tanh().exp(), alpha=0.01)


def deep(pairs):
    return nn.ModuleList(nn.Linear(6, 4) for _ in range(pairs))


def train_mixed(model, *, groups=False, steps=6):
    each = type("AdamW", (Mixed,), {})
    parameters = [*model.parameters()]
    optimizer = each([{"params": [p], "name": str(i)} for i, p in enumerate(parameters)] if groups else parameters)
    with gradstep.watch_rules(optimizer) as watch:
        for _ in range(steps):
            optimizer.zero_grad()
            torch.stack([layer(torch.randn(3, 6)).square().mean() for layer in model]).sum().backward()
            optimizer.step()
    return watch


def test_parameters_that_are_trained_alike_are_named_together_as_each_alone():
    watch = train_mixed(deep(4))
    together = [p.received for p in watch.report.parameters]
    assert len({*together}) == 4
    parameters = [(record, group, p) for record in watch._records.values() for *_, group, p in record.parameters()]
    for i in (0, 3, 4, 7):  # a weight or a bias of each kind
        record, group, p = parameters[i]
        promise, known = find_promise(record.optimizer, group, p)
        assert judge(record.histories[id(p)], promise, known)[0] == together[i]


@pytest.mark.parametrize("groups", [False, True])
def test_naming_many_parameters_costs_little_more_than_naming_a_few(groups, monkeypatch):
    counts = []
    for pairs in (4, 8):
        watch = train_mixed(deep(pairs), groups=groups)
        steps: list[int] = []
        with monkeypatch.context() as patch:
            own = candidates._replay_from
            patch.setattr(candidates, "_replay_from", lambda *a, own=own, steps=steps: steps.append(0) or own(*a))
            assert len(watch.report.problems) == 2 * pairs
        counts.append(len(steps))
    # Each on its own would cost twice as much: 500 replays for every parameter that no rule explains.
    assert counts[1] < 1.5 * counts[0], counts

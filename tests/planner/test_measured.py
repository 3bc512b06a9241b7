"""What is predicted is what is measured."""

import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gradstep
from gradstep.planner.items import temporaries
from gradstep.planner.parameters import ParameterSpec
from gradstep.rules import RULES, Rule


class Matrices(nn.Module):
    """Weights that a rule of matrices takes."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Linear(64, 129, bias=False)
        self.small = nn.Linear(129, 7, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        result: Tensor = self.small(self.wide(torch.ones(*tokens.shape, 64)))
        return result


class Model(nn.Module):
    """An embedding, a large matrix that is called so and is none, a small one, vectors, a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Embedding(97, 64)
        self.conv = nn.Conv1d(64, 33, 3)
        self.embed = nn.Linear(33, 129)
        self.norm = nn.LayerNorm(129)
        self.small = nn.Linear(129, 7)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.conv(self.shared(tokens).mT).mT
        result: Tensor = self.small(self.norm(self.embed(x)))
        return result


RULE_SETTINGS: dict[str, dict[str, Any]] = {
    **{name: {} for name in RULES},
    "SGD momentum": {"momentum": 0.9},
    "AdamW amsgrad": {"amsgrad": True},
    "RMSprop all": {"momentum": 0.9, "centered": True},
}


@pytest.mark.parametrize("state", ["float32", "bfloat16", "8bit", "4bit"])
@pytest.mark.parametrize("case", RULE_SETTINGS)
def test_state(case, state):
    settings = RULE_SETTINGS[case]
    rule: Rule = RULES[case.split()[0]](**settings)
    stored: dict[str, Any] = {} if state == "float32" else {"state": state}
    model = Matrices() if rule.sees == "matrix" else Model()
    if stored and not any(slot.collapsed is None for slot in rule.slots(2)):
        with pytest.raises(ValueError, match="cannot be honoured"):
            _measured(model, case, settings | stored)
        return
    predicted = gradstep.plan(model, optimizer=rule, state=state).of("state")
    assert _measured(model, case, settings | stored) == predicted


@pytest.mark.parametrize("rounding", ["nearest", "stochastic", "24bit", "kahan", "master"])
def test_half_precision_weights(rounding):
    model = Model().bfloat16()
    predicted = gradstep.plan(model, rounding=rounding).of("state")
    assert _measured(model, "AdamW", {"rounding": rounding}) == predicted


def test_what_a_rule_cannot_update_is_refused_as_by_the_optimizer():
    group = {"params": [("conv.weight", Model().conv.weight)]}
    for make in (lambda: gradstep.plan(Model(), optimizer="muon"), lambda: gradstep.Muon([group])):
        with pytest.raises(
            ValueError, match=r"Muon cannot update conv\.weight of shape \(33, 64, 3\): it has more than"
        ):
            make()


def test_double_precision():
    model = Model().double()
    assert _measured(model, "AdamW", {}) == gradstep.plan(model).of("state")


def _measured(model: nn.Module, case: str, settings: dict[str, Any]) -> int:
    """Bytes of all tensors of the state after a step (the engine changes none of them)."""
    optimizer = getattr(gradstep, case.split()[0])(model.named_parameters(), model=model, engine="eager", **settings)
    model(torch.arange(20).reshape(2, 10)).square().mean().backward()
    optimizer.step()
    found = [v for entry in optimizer.state.values() for v in entry.values() if isinstance(v, Tensor)]
    return sum(t.numel() * t.element_size() for t in found)


SIDE = 4_096
WATCH = f"""
import sys, threading, time
import torch, gradstep
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * {os.sysconf("SC_PAGE_SIZE")}
p = torch.nn.Parameter(torch.ones({SIDE}, {SIDE}))
p.grad = torch.ones_like(p)
optimizer = getattr(gradstep, sys.argv[1])([p], engine=sys.argv[2])
optimizer.step()
before, peak, done = resident(), [0], []
def watch():
    while not done:
        peak[0] = max(peak[0], resident())
        time.sleep(0.0005)
thread = threading.Thread(target=watch)
thread.start()
optimizer.step()
done.append(1)
thread.join()
print(peak[0] - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks Linux for the resident memory")
@pytest.mark.parametrize(
    ("name", "engine"), [("AdamW", "eager"), ("Adafactor", "eager"), ("SGD", "eager"), ("AdamW", "fused")]
)
def test_temporaries(name, engine):
    asked = [sys.executable, "-c", WATCH, name, engine]
    seen = int(subprocess.run(asked, capture_output=True, text=True, check=True, timeout=120).stdout)
    p = ParameterSpec("w", (SIDE, SIDE))
    predicted, _ = temporaries([p], RULES[name](), "float32", engine=engine, gpus=0)
    assert abs(seen - predicted) < p.local_nbytes()

"""Measure the CPU's part of an offloaded step of GPT-2: bfloat16 gradients in, AdamW, bfloat16 weights out.

Weights and gradients are on a card, state and step on the CPU; here the gradients are already in the CPU's memory, and
what is measured is the time from there to weights that can be sent back. The rivals take turns:

- gradstep with float32 moments and float32 copies of the weights (`rounding="master"`), and with less: 8-bit moments,
  no copies, weights rounded at random;
- DeepSpeed's CPUAdam as ZeRO-Offload uses it: gradients converted to float32, the step on float32 weights, and these
  converted to bfloat16; and on bfloat16 weights directly, with float32 moments;
- what torchao's CPUOffloadOptimizer calls, which itself needs a card: torch's fused AdamW, an optimizer for each
  parameter, on bfloat16 weights, whose moments are bfloat16 then.

Install DeepSpeed beside torch (`pip install --no-deps deepspeed py-cpuinfo hjson ninja msgpack einops pydantic`), with
DS_ACCELERATOR=cpu; its kernel is compiled for a minute when it is first used. Without it its rows are missing.

    python benchmarks/offload.py [--repeat 21] [--save]
"""

from __future__ import annotations

import importlib
import os
import statistics
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from turns import main, take_turns, time_step

import gradstep
from gradstep.lab.bench_models import gpt2

RESULTS = Path(__file__).parent / "results" / "offload.json"
COMPARED = {
    "DeepSpeed, float32 weights": ("gradstep, float32 copies", 1.2),
    "DeepSpeed, bfloat16 weights": ("gradstep, bfloat16 weights", None),
    "torchao": ("gradstep, bfloat16 weights and moments", 1.5),
}
"""For each rival the way of gradstep that stores the same, and how many times as fast that is to be."""

Step = Callable[[], object]


def make_parameters(dtype: torch.dtype = torch.bfloat16) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [(0.02 * torch.randn(shape, generator=generator)).to(dtype).requires_grad_() for shape in gpt2().values()]


def our_steps(gradients: list[Tensor]) -> Iterator[tuple[str, Step]]:
    ways: dict[str, dict[str, Any]] = {
        "gradstep, float32 copies": {"rounding": "master"},
        "gradstep, float32 copies, 8-bit": {"rounding": "master", "state": "8bit"},
        "gradstep, bfloat16 weights": {},
        "gradstep, bfloat16 weights and moments": {"state": "bfloat16"},
        "gradstep, rounded at random": {"rounding": "stochastic"},
        "gradstep, rounded at random, 8-bit": {"rounding": "stochastic", "state": "8bit"},
    }
    for name, settings in ways.items():
        params = make_parameters()
        for p, g in zip(params, gradients, strict=True):
            p.grad = g
        yield name, gradstep.AdamW(params, lr=1e-4, **settings).step


def deepspeed_steps(gradients: list[Tensor]) -> Iterator[tuple[str, Step]]:
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    try:
        kind: Any = importlib.import_module("deepspeed.ops.adam").DeepSpeedCPUAdam
    except ImportError:
        print("DeepSpeed is not installed: its rows are missing")
        return
    copies, sent = make_parameters(torch.float32), make_parameters()
    for p in copies:
        p.grad = torch.empty_like(p)
    wide = [p.grad for p in copies if p.grad is not None]
    optimizer = kind(copies, lr=1e-4, weight_decay=0.01)

    @torch.no_grad()
    def convert_and_step() -> None:
        torch._foreach_copy_(wide, gradients)
        optimizer.step()
        torch._foreach_copy_(sent, copies)

    yield "DeepSpeed, float32 weights", convert_and_step
    params = make_parameters()
    for p, g in zip(params, gradients, strict=True):
        p.grad = g
    yield "DeepSpeed, bfloat16 weights", kind(params, lr=1e-4, weight_decay=0.01, fp32_optimizer_states=True).step


def torchao_step(gradients: list[Tensor]) -> Step:
    params = make_parameters()
    for p, g in zip(params, gradients, strict=True):
        p.grad = g
    optimizers = [torch.optim.AdamW([p], lr=1e-4, fused=True) for p in params]

    def step() -> None:
        for optimizer in optimizers:
            optimizer.step()

    return step


def rows(repeat: int) -> list[dict[str, Any]]:
    warnings.filterwarnings("ignore", message=".*rounding to nearest can show.*")  # here only time matters
    gradients = [(1e-3 * p).detach() for p in make_parameters()]
    steps: dict[str, Step] = {**dict(our_steps(gradients)), **dict(deepspeed_steps(gradients))}
    steps["torchao"] = torchao_step(gradients)
    for name, step in steps.items():
        for _ in range(60 if name.startswith("gradstep") else 3):  # the first large ones try ways of reading memory
            step()
    seconds = take_turns({name: time_step(step) for name, step in steps.items()}, repeat)
    table = []
    for name, times in seconds.items():
        row: dict[str, Any] = {"step": name, "milliseconds": 1e3 * statistics.median(times)}
        words = f"{name:40} {row['milliseconds']:6.1f} ms"
        if name in COMPARED:
            ours, goal = COMPARED[name]
            low, ratio, high = statistics.quantiles([b / a for a, b in zip(seconds[ours], times, strict=True)])
            row |= {"compared with": ours, "ratio": ratio, "quartiles": [low, high], "goal": goal}
            words += f", {ratio:.2f} times as long ({low:.2f} to {high:.2f}) as {ours}"
            words += "" if goal is None else f"; goal ≥ {goal}: {'met' if ratio >= goal else 'missed'}"
        print(words)
        table.append(row)
    return table


if __name__ == "__main__":
    main(__doc__, 21, RESULTS, rows)

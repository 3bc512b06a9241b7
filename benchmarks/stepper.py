"""Compare the end of an update in the Stepper with the code of torch's documentation.

An update has four micro-batches in float16: loss scaling, check for overflow, clipping, norm, AdamW step, scaler's
update and clearing of gradients. Only the last micro-batch's call is timed, without the model's backward pass: the loss
depends on one number, and all other gradients are set before, the same for all rivals. Rivals take turns in one
process, in each repetition in another order.

    python benchmarks/stepper.py [--repeat 21] [--save]
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import nn
from turns import WORKS, main, take_turns

import gradstep
from gradstep.lab.bench import settle

WINDOW, CLIP, SCALE = 4, 1.0, 2.0**16
GOAL = 1.3

SIZES = {**WORKS, "6 tensors, 9 k": [(64, 96), (96,), (96, 32), (32,), (32, 10), (10,)]}
OURS, MIXED = "Stepper, gradstep", "Stepper, torch fused"
HANDS: dict[str, dict[str, Any]] = {
    "torch fused": {"fused": True},
    "torch foreach": {"foreach": True},
    "torch default": {"foreach": False},
}


class Held(nn.Module):
    """A model with parameters of these shapes, and one number that the loss depends on."""

    def __init__(self, shapes: list[tuple[int, ...]]) -> None:
        super().__init__()
        self.touched = nn.Parameter(torch.zeros(()))
        self.held = nn.ParameterList([nn.Parameter(torch.full(shape, 0.1)) for shape in shapes])


def stepper(model: Held, optimizer: torch.optim.Optimizer) -> Callable[[Callable[[], None]], float]:
    """Return a function that makes one update with the Stepper and returns the seconds of its end."""
    scaler = torch.amp.GradScaler("cpu", init_scale=SCALE, growth_interval=10**9)
    one = gradstep.Stepper(model, optimizer, accumulate=WINDOW, max_grad_norm=CLIP, precision="float16", scaler=scaler)

    def run(give: Callable[[], None]) -> float:
        for _ in range(WINDOW - 1):
            with one.autocast():
                loss = model.touched * 1.0
            one.backward(loss)
        with one.autocast():
            loss = model.touched * 1.0
        give()
        begin = time.perf_counter()
        outcome = one.backward(loss)
        seconds = time.perf_counter() - begin
        assert outcome is not None
        assert outcome.stepped
        assert outcome.clip < 1
        return seconds

    return run


def by_hand(model: Held, optimizer: torch.optim.Optimizer) -> Callable[[Callable[[], None]], float]:
    """Return the same function for torch's documented code."""
    scaler = torch.amp.GradScaler("cpu", init_scale=SCALE, growth_interval=10**9)

    def run(give: Callable[[], None]) -> float:
        for _ in range(WINDOW - 1):
            with torch.autocast("cpu", torch.float16):
                loss = model.touched * 1.0
            scaler.scale(loss / WINDOW).backward()
        with torch.autocast("cpu", torch.float16):
            loss = model.touched * 1.0
        give()
        begin = time.perf_counter()
        scaler.scale(loss / WINDOW).backward()
        scaler.unscale_(optimizer)
        norm = float(nn.utils.clip_grad_norm_(model.parameters(), CLIP))
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        seconds = time.perf_counter() - begin
        assert norm > CLIP
        return seconds

    return run


def measure(shapes: list[tuple[int, ...]], repeat: int) -> dict[str, list[float]]:
    """Return the seconds of every rival and repetition; rivals share parameters and the source of the gradients."""
    model = Held(shapes)
    torch.manual_seed(0)
    source = [torch.randn_like(p) * SCALE for p in model.held]
    scratch = [torch.empty_like(g) for g in source]

    def give() -> None:
        torch._foreach_copy_(scratch, source)
        for p, g in zip(model.held, scratch, strict=True):
            p.grad = g

    params = list(model.parameters())
    rivals: dict[str, Callable[[Callable[[], None]], float]] = {
        OURS: stepper(model, gradstep.AdamW(params)),
        MIXED: stepper(model, torch.optim.AdamW(params, fused=True)),
        **{name: by_hand(model, torch.optim.AdamW(params, **how)) for name, how in HANDS.items()},
    }
    for run in rivals.values():
        settle(partial(run, give))
    return take_turns({name: partial(run, give) for name, run in rivals.items()}, repeat)


def rows(repeat: int) -> list[dict[str, Any]]:
    """Measure everything and return a row for each size."""
    result = []
    for title, shapes in SIZES.items():
        parameters = sum(map(prod, shapes))
        seconds = measure(shapes, repeat * (5 if parameters < 10**6 else 1))
        medians = {name: statistics.median(times) for name, times in seconds.items()}
        result.append({"title": title, "parameters": parameters, "tensors": len(shapes), "seconds": seconds})
        print(f"{title}: " + ", ".join(f"{name} {s * 1e3:.3g} ms" for name, s in medians.items()))
        hand = "torch fused"
        print(f"    {OURS} against {hand} by hand: {medians[hand] / medians[OURS]:.2f}× (goal for 25 M: {GOAL}×)")
    return result


if __name__ == "__main__":
    main(__doc__, 21, Path(__file__).parent / "results" / "stepper.json", rows)

"""Measure a step of Muon against torch.optim.Muon: GPT-2's 48 matrices, and many small ones.

The blocks of GPT-2 are alike, so one block's four matrices are stepped and the seconds multiplied by twelve. Both
optimizers step the same shapes in turns. Seconds are the processor time of one thread, so that other programs do not
count; the least of all repetitions, of which the first makes the state. The distance is that of the two movements after
all steps, over torch's.

    python benchmarks/muon.py [--repeat 2] [--save]
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from turns import main, take_turns, time_step

import gradstep

WORKS: dict[str, tuple[list[tuple[int, int]], int]] = {
    "GPT-2's 48 matrices": ([(768, 2304), (768, 768), (768, 3072), (3072, 768)], 12),
    "500 matrices of 64×64": ([(64, 64)] * 500, 1),
}
"""The shapes that are stepped, by title, and what the seconds are multiplied by."""

RESULTS = Path(__file__).parent / "results" / "muon.json"


def make_parameters(shapes: list[tuple[int, int]]) -> list[Tensor]:
    """Return parameters with gradients, the same at every call."""
    torch.manual_seed(0)
    params = [torch.randn(shape).mul_(0.02).requires_grad_() for shape in shapes]
    for p in params:
        p.grad = torch.randn_like(p)
    return params


def rows(repeat: int) -> list[dict[str, Any]]:
    """Measure every work; return a row for each."""
    torch.set_num_threads(1)
    table = []
    for title, (shapes, times) in WORKS.items():
        params = {name: make_parameters(shapes) for name in ("gradstep", "torch")}
        start = make_parameters(shapes)
        optimizers: dict[str, torch.optim.Optimizer] = {
            "gradstep": gradstep.Muon(params["gradstep"], lr=0.02),
            "torch": torch.optim.Muon(params["torch"], lr=0.02),
        }
        seconds = take_turns({name: time_step(o.step, time.thread_time) for name, o in optimizers.items()}, repeat)
        best = {name: min(each) * times for name, each in seconds.items()}
        moved = {name: [(p - s).detach() for p, s in zip(own, start)] for name, own in params.items()}
        apart = sum(float((p - q).square().sum()) for p, q in zip(moved["gradstep"], moved["torch"]))
        distance = (apart / sum(float(q.square().sum()) for q in moved["torch"])) ** 0.5
        table.append({"work": title, "seconds": best, "ratio": best["torch"] / best["gradstep"], "distance": distance})
        print(
            f"{title}: gradstep {best['gradstep']:.3g} s, torch {best['torch']:.3g} s, ratio {table[-1]['ratio']:.2f}"
        )
    return table


if __name__ == "__main__":
    main(__doc__, 2, RESULTS, rows)

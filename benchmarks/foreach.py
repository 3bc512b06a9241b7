"""Measure a step of engine="foreach" against torch's foreach=True on the CPU, and against the engine eager.

It is the engine of devices without a kernel of ours; here it can only be compared on the CPU. The rivals take turns.

    python benchmarks/foreach.py [--repeat 9] [--save]
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import torch
from turns import take_turns, time_step

import gradstep
from gradstep.lab.bench_models import gpt2, resnet50
from gradstep.lab.machine import describe_machine

RESULTS = Path(__file__).parent / "results" / "foreach.json"
WORKS = {
    "2,000 × 64²": [(64, 64)] * 2_000,
    "GPT-2, 124 M": list(gpt2().values()),
    "ResNet-50, 25.6 M": list(resnet50().values()),
}


def measure(shapes: list[Any], repeat: int) -> dict[str, list[float]]:
    """Return the seconds of every step of every rival."""
    torch.manual_seed(0)
    params = [torch.randn(shape, requires_grad=True) for shape in shapes]
    for p in params:
        p.grad = torch.randn_like(p)
    steps: dict[str, Callable[[], None]] = {
        "gradstep foreach": gradstep.AdamW(params, lr=1e-4, engine="foreach").step,
        "gradstep eager": gradstep.AdamW(params, lr=1e-4, engine="eager").step,
        "torch foreach": torch.optim.AdamW(params, lr=1e-4, foreach=True).step,
    }
    for step in steps.values():
        step()
        step()
    return take_turns({name: time_step(step) for name, step in steps.items()}, repeat)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=9)
    parser.add_argument("--save", action="store_true", help=f"write {RESULTS.name} into results/")
    arguments = parser.parse_args()
    rows = []
    for title, shapes in WORKS.items():
        every = measure(shapes, arguments.repeat)
        medians = {name: statistics.median(times) for name, times in every.items()}
        rows.append({"work": title, "seconds": medians, "every": every})
        ours = medians["gradstep foreach"]
        print(f"{title:18} {1e3 * ours:7.1f} ms", end="", flush=True)
        for name in ("torch foreach", "gradstep eager"):
            print(f"  {name} {1e3 * medians[name]:7.1f} ms, {medians[name] / ours:5.2f} times as fast", end="")
        print()
    if arguments.save:
        content = {"machine": describe_machine(), "date": date.today().isoformat(), "rows": rows}
        RESULTS.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

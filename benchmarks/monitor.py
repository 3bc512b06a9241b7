"""What a Monitor costs an update: AdamW's fused step with and without it, record written to disk.

Three optimizers over the same parameters and gradients take turns in one process, each repetition in another order:
one that nobody watches, one with global norms, one with the norms of every parameter. Timed is ``step()`` and
``monitor.log(loss=...)``. The overhead is the median, over the repetitions, of the time with over the time without in
the same turn. The same for torch's fused AdamW, around whose step everything is done by torch operations.

    python benchmarks/monitor.py [--repeat 41] [--save]
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import gradstep
from gradstep.lab.bench_busy import Neighbours
from gradstep.lab.machine import describe
from gradstep.monitor import JsonLines

RESULTS = Path(__file__).parent / "results" / "monitor.json"
GOALS = {"global norms": 0.03, "norms of every parameter": 0.15}

_LAYER = [(1536, 512), (1536,), (512, 512), (512,), (2048, 512), (2048,), (512, 2048), (512,), (512,), (512,)]
WORKS: dict[str, list[tuple[int, ...]]] = {
    "one tensor of 25 M": [(25_000_000,)],
    "a transformer of 25.5 M, 82 tensors": [(512, 512), (128, 512), *_LAYER * 8],
    "2,000 tensors of 64×64": [(64, 64)] * 2_000,
}
KINDS: dict[str, Callable[[Sequence[Tensor]], torch.optim.Optimizer]] = {
    "gradstep": lambda params: gradstep.AdamW(params, lr=1e-5),
    "torch fused": lambda params: torch.optim.AdamW(params, lr=1e-5, fused=True),
}


def updater(optimizer: torch.optim.Optimizer, monitor: gradstep.Monitor | None) -> Callable[[], float]:
    """One update; its seconds."""

    def run() -> float:
        begin = time.perf_counter()
        optimizer.step()
        if monitor is not None:
            monitor.log(loss=1.0)
        return time.perf_counter() - begin

    return run


def measure(
    make: Callable[[Sequence[Tensor]], torch.optim.Optimizer], shapes: list[tuple[int, ...]], repeat: int
) -> dict[str, list[float]]:
    """Seconds of every contender, repetition by repetition."""
    torch.manual_seed(0)
    params = [torch.randn(shape).requires_grad_() for shape in shapes]
    for p in params:
        p.grad = torch.randn_like(p)
    with tempfile.TemporaryDirectory() as folder:
        contenders = {"without": updater(make(params), None)}
        monitors = []
        for name in GOALS:
            optimizer = make(params)
            sink = JsonLines(Path(folder) / name / "monitor.jsonl")
            monitors.append(gradstep.Monitor(optimizer, per_parameter=name != "global norms", sinks=[sink]))
            contenders[name] = updater(optimizer, monitors[-1])
        seconds = {name: list[float]() for name in contenders}
        for run in contenders.values():
            run()
            run()
        order = list(contenders)
        gc.collect()
        gc.disable()
        try:
            for _ in range(repeat):
                for name in order:
                    seconds[name].append(contenders[name]())
                order.append(order.pop(0))
        finally:
            gc.enable()
        for monitor in monitors:
            monitor.close()
    return seconds


def overhead(seconds: dict[str, list[float]], name: str) -> float:
    """How much longer an update takes, as a part of it."""
    return statistics.median(b / a for a, b in zip(seconds["without"], seconds[name], strict=True)) - 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=41)
    parser.add_argument("--save", action="store_true", help=f"write {RESULTS.name} into results/")
    arguments = parser.parse_args()
    neighbours, rows = Neighbours(), []
    for kind, make in KINDS.items():
        for title, shapes in WORKS.items():
            seconds = measure(make, shapes, arguments.repeat)
            costs = {name: overhead(seconds, name) for name in GOALS}
            rows.append({"kind": kind, "title": title, "overhead": costs, "seconds": seconds})
            said = ", ".join(f"{name} {cost:+.1%} (goal {GOALS[name]:.0%})" for name, cost in costs.items())
            print(f"{kind}, {title}: {statistics.median(seconds['without']) * 1e3:.3g} ms; {said}", flush=True)
    known: dict[str, Any] = {
        "machine": describe(),
        "date": date.today().isoformat(),
        "others": neighbours.share(),
        "rows": rows,
    }
    print(f"other programs took {known['others']:.1%} of the processors" if known["others"] is not None else "")
    if arguments.save:
        RESULTS.write_text(json.dumps(known, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""What a Monitor costs an update: AdamW's fused step with and without it, record written to disk.

One optimizer, so that all read and write the same memory, is watched by nobody, by a monitor of global norms and by one
of the norms of every parameter; they take turns in one process, each repetition in another order. Timed is ``step()``
and ``monitor.log(loss=...)``: the median of a turn's updates, without its first ones, of which one writes the header.
The overhead is the median, over the repetitions, of the time with over the time without in the same repetition. The
same for torch's fused AdamW, around whose step everything is done by torch operations.

    python benchmarks/monitor.py [--repeat 15] [--save]
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
REPEAT = 15
GOALS = {"global norms": 0.03, "norms of every parameter": 0.15}

_LAYER = [(1536, 512), (1536,), (512, 512), (512,), (2048, 512), (2048,), (512, 2048), (512,), (512,), (512,)]
WORKS: dict[str, list[tuple[int, ...]]] = {
    "one tensor of 25 M": [(25_000_000,)],
    "a transformer of 25.5 M, 82 tensors": [(512, 512), (128, 512), *_LAYER * 8],
    "2,000 tensors of 64×64": [(64, 64)] * 2_000,
}
RIVAL = 1
"""Repetitions of torch's, whose updates take a second and whose overhead needs no decimals."""
KINDS: dict[str, Callable[[Sequence[Tensor]], torch.optim.Optimizer]] = {
    "gradstep": lambda params: gradstep.AdamW(params, lr=1e-5),
    "torch fused": lambda params: torch.optim.AdamW(params, lr=1e-5, fused=True),
}


PLAIN, UPDATES, COLD = "without", 12, 3


def turn(optimizer: torch.optim.Optimizer, monitor: gradstep.Monitor | None, updates: int) -> float:
    """Seconds of an update; the first ones, before everything is where it will be, do not count."""
    seconds = []
    for _ in range(updates):
        begin = time.perf_counter()
        optimizer.step()
        if monitor is not None:
            monitor.log(loss=1.0)
        seconds.append(time.perf_counter() - begin)
    if monitor is not None:
        monitor.close()
    return statistics.median(seconds[COLD:])


def measure(
    make: Callable[[Sequence[Tensor]], torch.optim.Optimizer], shapes: list[tuple[int, ...]], repeat: int, updates: int
) -> dict[str, list[float]]:
    """Seconds of every contender, repetition by repetition."""
    torch.manual_seed(0)
    params = [torch.randn(shape).requires_grad_() for shape in shapes]
    for p in params:
        p.grad = torch.randn_like(p)
    optimizer = make(params)
    order = [PLAIN, *GOALS]
    seconds = {name: list[float]() for name in order}
    with tempfile.TemporaryDirectory() as folder:

        def monitor(name: str) -> gradstep.Monitor | None:
            if name == PLAIN:
                return None
            sink = JsonLines(Path(folder) / "monitor.jsonl", overwrite=True)
            return gradstep.Monitor(optimizer, per_parameter=name != "global norms", sinks=[sink])

        for name in order:  # compiles
            turn(optimizer, monitor(name), updates)
        gc.collect()
        gc.disable()
        try:
            for _ in range(repeat):
                for name in order:
                    seconds[name].append(turn(optimizer, monitor(name), updates))
                order.append(order.pop(0))
        finally:
            gc.enable()
    return seconds


def overhead(seconds: dict[str, list[float]], name: str) -> float:
    """How much longer an update takes, as a part of it."""
    return statistics.median(b / a for a, b in zip(seconds[PLAIN], seconds[name], strict=True)) - 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=REPEAT)
    parser.add_argument("--save", action="store_true", help=f"write {RESULTS.name} into results/")
    arguments = parser.parse_args()
    neighbours, rows = Neighbours(), []
    for kind, make in KINDS.items():
        for title, shapes in WORKS.items():
            few = kind != "gradstep"
            seconds = measure(make, shapes, RIVAL if few else arguments.repeat, COLD + 2 if few else UPDATES)
            costs = {name: overhead(seconds, name) for name in GOALS}
            rows.append({"kind": kind, "title": title, "overhead": costs, "seconds": seconds})
            said = ", ".join(f"{name} {cost:+.1%} (goal {GOALS[name]:.0%})" for name, cost in costs.items())
            print(f"{kind}, {title}: {statistics.median(seconds[PLAIN]) * 1e3:.3g} ms; {said}", flush=True)
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

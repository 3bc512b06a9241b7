"""Measure how the time of an AdamW step grows with the parameters of one tensor, and with the number of tensors.

torch's fused step runs on the same tensors, state included, so that the largest size needs only 16 bytes a parameter.
Sizes that do not fit into free memory are left out and named.

    python benchmarks/growth.py [--largest 1e8] [--chart FILE]
"""

from __future__ import annotations

import argparse
import gc
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import gradstep
from gradstep.lab.bench import settle
from gradstep.report import Grid, Line, LineChart

PARAMETERS = [10**4, 31_623, 10**5, 316_228, 10**6, 3_162_278, 10**7, 31_622_777, 10**8, 316_227_766, 10**9]
TENSORS = [1, 3, 10, 32, 100, 316, 1_000, 3_162, 10_000]
ELEMENTS = 1_024
"""Elements in each of many tensors."""
BYTES = 16
MARGIN = 3e9
BUDGET = 6.0
"""Seconds that each size may take."""

COLOURS = {"gradstep": "vermilion", "torch fused": "grey"}
Sizes = dict[str, dict[str, Any]]


def available() -> float:
    """Return the bytes of memory that are free now."""
    for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("MemAvailable:"):
            return float(line.split()[1]) * 1024
    return float(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))


def step_seconds(tensors: int, elements: int) -> dict[str, float]:
    """Return the median seconds of gradstep's step and torch's, in turns on the same tensors."""
    params: list[Tensor] = []
    for _ in range(tensors):
        p = torch.full((elements,), 0.5, requires_grad=True)
        p.grad = torch.full((elements,), 0.01)
        params.append(p)
    ours, theirs = gradstep.AdamW(params), torch.optim.AdamW(params, fused=True)
    ours.step()
    for p in params:
        state = ours.state[p]
        theirs.state[p] = {
            "step": torch.ones(()),
            "exp_avg": state["exp_avg"],
            "exp_avg_sq": state["exp_avg_sq"],
        }
    steps: dict[str, Callable[[], object]] = {"gradstep": ours.step, "torch fused": theirs.step}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        settle(step)
    gc.collect()
    gc.disable()
    end = time.perf_counter() + BUDGET
    while len(seconds["gradstep"]) < 5 or (time.perf_counter() < end and len(seconds["gradstep"]) < 101):
        for name in steps if len(seconds["gradstep"]) % 2 else reversed(steps):
            begin = time.perf_counter()
            steps[name]()
            seconds[name].append(time.perf_counter() - begin)
    gc.enable()
    return {name: round(statistics.median(times), 8) for name, times in seconds.items()}


def measure(largest: float = 1e9) -> dict[str, Any]:
    """Return the seconds by size, and the sizes that did not fit."""
    by_parameters: list[dict[str, Any]] = []
    left_out = []
    for count in PARAMETERS:
        if count > largest or count * BYTES + MARGIN > available():
            left_out.append(count)
            continue
        by_parameters.append({"parameters": count, **step_seconds(1, count)})
        show(by_parameters[-1])
    by_tensors = []
    for count in TENSORS:
        by_tensors.append({"tensors": count, "elements": ELEMENTS, **step_seconds(count, ELEMENTS)})
        show(by_tensors[-1])
    return {"parameters": by_parameters, "tensors": by_tensors, "left out": left_out}


def show(row: dict[str, Any]) -> None:
    print("  ".join(f"{key} {value:,}" for key, value in row.items()), flush=True)


def chart(results: dict[str, Any]) -> Grid:
    """Draw the time of a step, and below it the time for each parameter or tensor (level where growth is linear)."""
    sides = (
        ("parameters", "parameters of one tensor", "ns a parameter"),
        ("tensors", f"tensors of {ELEMENTS:,}", "ns a tensor"),
    )
    whole, each = [], []
    for key, title, unit in sides:
        rows = results[key]
        counts = [row[key] for row in rows]
        times = {name: [row[name] for row in rows] for name in COLOURS}
        last = times["gradstep"][-1] / counts[-1]
        colours = [*COLOURS.items(), ("linear", "ink")]
        times["linear"] = [last * n for n in counts]
        steps = [Line(name, counts, times[name], colour, dashed=name == "linear") for name, colour in colours]
        parts = [
            Line(name, counts, [1e9 * t / n for t, n in zip(times[name], counts)], colour, dashed=name == "linear")
            for name, colour in colours
        ]
        whole.append(LineChart(f"AdamW step by {title}", title, "seconds", steps, x_log=True, y_log=True, tall=300))
        each.append(LineChart(f"The same, in {unit}", title, unit, parts, x_log=True, y_log=True))
    return Grid("How the time of a step grows", [*whole, *each])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--largest", type=float, default=1e9)
    parser.add_argument("--chart", type=Path)
    arguments = parser.parse_args()
    measured = measure(arguments.largest)
    for count in measured["left out"]:
        print(f"left out: {count:,} parameters")
    if arguments.chart is not None:
        chart(measured).save(arguments.chart)

"""Measure one rank of 1,024 without the others: the planner's time, and the time to build the step's table.

The table is built for plain tensors with the shapes of that rank's shards of k layers of Llama 3 8B (fully_shard over
1,024 ranks), in a first step, which also creates state; later steps reuse it. No process group is started.

    python benchmarks/many_ranks.py [--save]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

import gradstep
from gradstep.lab.machine import describe_machine

RESULTS = Path(__file__).parent / "results" / "many_ranks.json"
RANKS = 1024
LAYERS = (1, 2, 4, 8, 16, 32)
WIDTH, HIDDEN, KEYS = 4096, 14_336, 1024
LAYER = [(WIDTH, WIDTH)] * 2 + [(KEYS, WIDTH)] * 2 + [(HIDDEN, WIDTH)] * 2 + [(WIDTH, HIDDEN)] + [(WIDTH,)] * 2


def measure(layers: int) -> dict[str, Any]:
    """Measure one rank's shards of so many layers."""
    shapes = LAYER * layers
    whole = nn.ParameterList(nn.Parameter(torch.empty(shape, device="meta")) for shape in shapes)
    begin = time.perf_counter()
    plan = gradstep.plan(whole, ranks=RANKS, sharding="fsdp2")
    planned = time.perf_counter() - begin
    shards = [nn.Parameter(torch.zeros(shape[0] // RANKS, *shape[1:])) for shape in shapes]
    for p in shards:
        p.grad = torch.zeros_like(p)
    first, again = [], []
    for _ in range(5):
        optimizer = gradstep.AdamW(shards)
        begin = time.perf_counter()
        optimizer.step()
        first.append(time.perf_counter() - begin)
        steps = []
        for _ in range(5):
            begin = time.perf_counter()
            optimizer.step()
            steps.append(time.perf_counter() - begin)
        again.append(min(steps))
    state = sum(t.numel() * t.element_size() for entry in optimizer.state.values() for t in entry.values())
    return {
        "layers": layers,
        "tensors": len(shards),
        "parameters of the rank": sum(p.numel() for p in shards),
        "planned state bytes": plan.of("state"),
        "measured state bytes": state,
        "seconds to plan": planned,
        "seconds of the first step": statistics.median(first[1:]),  # the very first one also compiles
        "seconds of a later step": statistics.median(again[1:]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--save", action="store_true", help=f"write {RESULTS.name} into results/")
    arguments = parser.parse_args()
    measure(1)  # compiles
    rows = [measure(layers) for layers in LAYERS]
    for row in rows:
        print("  ".join(f"{name} {value:,.6g}" for name, value in row.items()))
    if arguments.save:
        content = {"machine": describe_machine(), "ranks": RANKS, "rows": rows}
        RESULTS.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

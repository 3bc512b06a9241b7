"""Compare AdamW with parameters or state in fewer bits with torch's fused float32 step and with others in 8 and 4 bits.

Each has one tensor of 25.2 M parameters; all take turns in one process. bitsandbytes and torchao take part if they are
installed (in a separate environment, after torch 2.13.0); they are slow on a CPU and take fewer turns.

    python benchmarks/storage.py [--repeat 31] [--save]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from datetime import date
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import gradstep
from gradstep.lab.bench import settle
from gradstep.lab.machine import OtherPrograms, describe_machine

SHAPE = (24_576, 1_024)  # 25.2 M; a multiple of 256, which torchao requires
RESULTS = Path(__file__).parent / "results" / "storage.json"
RIVAL_TURNS = 5
BASE = "torch fused, float32"


def parameter(dtype: torch.dtype) -> Tensor:
    p = torch.randn(SHAPE).to(dtype).requires_grad_()
    p.grad = torch.randn(SHAPE).mul_(1e-2).to(dtype)
    return p


def ours(dtype: torch.dtype = torch.float32, **storage: Any) -> torch.optim.Optimizer:
    return gradstep.AdamW([parameter(dtype)], lr=1e-4, weight_decay=0.1, **storage)


def rival(module: str, name: str) -> Callable[[], torch.optim.Optimizer] | None:
    try:
        kind = getattr(import_module(module), name)
    except ImportError:
        print(f"{module} is not installed: left out")
        return None
    return lambda: kind([parameter(torch.float32)], lr=1e-4, weight_decay=0.1)


BF16 = torch.bfloat16
CASES: dict[str, Callable[[], torch.optim.Optimizer]] = {
    BASE: lambda: torch.optim.AdamW([parameter(torch.float32)], lr=1e-4, weight_decay=0.1, fused=True),
    "float32": ours,
    "bfloat16 state": lambda: ours(state="bfloat16"),
    "8-bit state": lambda: ours(state="8bit"),
    "4-bit state": lambda: ours(state="4bit"),
    "bf16 parameters, stochastic": lambda: ours(BF16, rounding="stochastic"),
    "bf16 parameters, 24 bits": lambda: ours(BF16, rounding="24bit"),
    "bf16 parameters, Kahan": lambda: ours(BF16, rounding="kahan"),
    "bf16 parameters, master": lambda: ours(BF16, rounding="master"),
    "bf16 parameters, stochastic, 8-bit state": lambda: ours(BF16, rounding="stochastic", state="8bit"),
}
RIVALS = {
    "bitsandbytes AdamW8bit": ("bitsandbytes.optim", "AdamW8bit"),
    "torchao AdamW8bit": ("torchao.optim", "AdamW8bit"),
    "torchao AdamW4bit": ("torchao.optim", "AdamW4bit"),
}


def state_bytes(optimizer: torch.optim.Optimizer) -> float:
    """Return the bytes of state per parameter, without the step count."""
    (entry,) = optimizer.state.values()
    parts = [
        getattr(v, name)
        for v in entry.values()
        for name in ("codes", "scale")
        if type(v).__name__ in ("OptimState8bit", "OptimState4bit")
    ]
    plain = [
        v
        for v in entry.values()
        if isinstance(v, Tensor) and type(v) is Tensor and v.dim() > 0 and v.numel() not in (16, 256)
    ]
    return sum(t.nbytes for t in (*plain, *parts)) / (SHAPE[0] * SHAPE[1])


def measure(repeat: int) -> dict[str, Any]:
    makers = dict(CASES)
    for name, (module, kind) in RIVALS.items():
        made = rival(module, kind)
        if made is not None:
            makers[name] = made
    optimizers = {name: make() for name, make in makers.items()}
    times: dict[str, list[float]] = {name: [] for name in optimizers}
    for optimizer in optimizers.values():
        settle(optimizer.step)  # compiles, creates the state, chooses access patterns
    others = OtherPrograms()
    names = list(optimizers)
    for turn in range(repeat):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            if name in RIVALS and turn >= RIVAL_TURNS:
                continue
            begin = time.perf_counter()
            optimizers[name].step()
            times[name].append(time.perf_counter() - begin)
        print(f"\rturn {turn + 1} of {repeat}", end="", flush=True)
    print()
    return {
        "date": date.today().isoformat(),
        "machine": describe_machine(),
        "others": others.share(),
        "seconds": times,
        "state_bytes": {name: state_bytes(optimizer) for name, optimizer in optimizers.items()},
    }


def table(results: dict[str, Any]) -> str:
    base = statistics.median(results["seconds"][BASE])
    lines = [
        "| AdamW, 25.2 M parameters | step | × torch fused float32 | bytes of state a parameter |",
        "| --- | ---: | ---: | ---: |",
    ]
    for name, seconds in results["seconds"].items():
        median = statistics.median(seconds)
        lines.append(f"| {name} | {median * 1e3:.1f} ms | {base / median:.2f}× | {results['state_bytes'][name]:.3f} |")
    for name in RIVALS:
        if name in results["seconds"]:
            bits = 4 if name.endswith("4bit") else 8
            ratio = statistics.median(results["seconds"][name]) / statistics.median(
                results["seconds"][f"{bits}-bit state"]
            )
            lines.append(f"\nThe {bits}-bit step against {name}: {ratio:.0f}×.")
    lines.append(f"\nOther programs took {results['others']:.1%} of the processors meanwhile.")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=31)
    parser.add_argument("--save", action="store_true", help="write results/storage.json and storage.md")
    arguments = parser.parse_args()
    results = measure(arguments.repeat)
    print(table(results))
    if arguments.save:
        RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        head = "# Storage\n\nMade by `python benchmarks/storage.py --save`; every measured time is in storage.json.\n\n"
        RESULTS.with_suffix(".md").write_text(head + table(results) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""Measure memory and time of an AdamW step on a billion bfloat16 parameters with 8-bit state.

The tensors have the shapes of Llama 3.2 1B, with a vocabulary of 32,000 (1.04 B parameters) or its own (`--vocabulary
128256`, 1.24 B; embeddings keep float32 state by default, so they need more memory each). Weights and gradients are
random numbers: a step needs no model. The measurement runs in a separate process, which Ctrl-C ends.

    python benchmarks/billion.py [--vocabulary 32000] [--save]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from datetime import date
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import gradstep
from gradstep.lab.machine import describe_machine
from gradstep.planner import Llama

GOAL = 7.0  # bytes a parameter
STEPS = 3
CHUNK = 1 << 22
RESULTS = Path(__file__).parent / "results" / "billion.json"


def tile(shape: tuple[int, ...], noise: Tensor) -> Tensor:
    """Return a tensor of ``noise``'s type that repeats it, of shape (CHUNK,), without a temporary of its size."""
    tensor = torch.empty(shape, dtype=noise.dtype)
    for part in tensor.view(-1).split(len(noise)):
        part.copy_(noise[: len(part)])
    return tensor


def peak() -> int:
    """Return this process's peak memory in bytes (``VmHWM``)."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def show(words: str, *, end: str = "") -> None:
    print(f"\r{words:<60}", end=end, file=sys.stderr, flush=True)


def measure(vocabulary: int) -> dict[str, Any]:
    table = list(Llama(2_048, 16, 8_192, heads=32, head_size=64, tied=True, vocabulary=vocabulary).parameters())
    total, done = sum(row.numel for row in table), 0
    noise = torch.randn(CHUNK, generator=torch.Generator().manual_seed(0))
    weights, gradients = (0.02 * noise).bfloat16(), (1e-3 * noise.flip(0)).bfloat16()
    named: list[tuple[str, Tensor]] = []
    for row in table:
        p = tile(row.shape, weights).requires_grad_()
        p.grad = tile(row.shape, gradients)
        named.append((row.name, p))
        done += row.numel
        show(f"weights and gradients: {done / 1e9:.2f} of {total / 1e9:.2f} billion")
    optimizer = gradstep.AdamW(named, lr=1e-4, weight_decay=0.1, state="8bit", rounding="stochastic")
    seconds = []
    for number in range(STEPS):
        show(f"step {number + 1} of {STEPS}")
        begin = time.perf_counter()
        optimizer.step(max_grad_norm=1.0)
        seconds.append(time.perf_counter() - begin)
    show("", end="\r")
    state = sum(t.nbytes for entry in optimizer.state.values() for t in entry.values())
    return {"parameters": total, "vocabulary": vocabulary, "state": state, "peak": peak(), "seconds": seconds}


def report(results: dict[str, Any]) -> str:
    n = results["parameters"]
    first, *later = results["seconds"]
    each = results["peak"] / n
    return "\n".join(
        [
            "| 8-bit AdamW, bfloat16 parameters, stochastic rounding, clipped | |",
            "| --- | ---: |",
            f"| parameters (vocabulary of {results['vocabulary']:,}) | {n:,} |",
            f"| weights and gradients | {4 * n / 1e9:.2f} GB, 4.00 bytes a parameter |",
            f"| state | {results['state'] / 1e9:.2f} GB, {results['state'] / n:.2f} bytes a parameter |",
            f"| peak resident memory, Python and torch included | {results['peak'] / 1e9:.2f} GB, "
            f"**{each:.2f} bytes a parameter** |",
            f"| first step, which makes the state | {first:.2f} s |",
            f"| a step after | {min(later):.2f} s |",
            f"\nAt most {GOAL:g} bytes a parameter: {'reached' if each <= GOAL else 'missed'}.",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocabulary", type=int, default=32_000)
    parser.add_argument("--save", action="store_true", help="write results/billion.json and billion.md")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.here:
        print(json.dumps(measure(arguments.vocabulary)))
        return
    command = [sys.executable, __file__, "--here", "--vocabulary", str(arguments.vocabulary)]
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    except KeyboardInterrupt:
        sys.exit("\nstopped: nothing was written")
    if done.returncode:
        sys.exit(f"the step did not come to its end (exit code {done.returncode}; -9: out of memory)")
    results = {"date": date.today().isoformat(), "machine": describe_machine(), **json.loads(done.stdout)}
    print(report(results))
    if arguments.save:
        RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        head = "# A billion parameters\n\nMade by `python benchmarks/billion.py --save`.\n\n"
        RESULTS.with_suffix(".md").write_text(head + report(results) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""Measure the bytes a parameter of a whole training step with gradients released, and what the release costs in time.

Every measurement is a process of its own, which trains a model through the public interface: forward, backward and
`gradstep.Stepper(..., release_gradients=True)`, on 16 random tokens. The bytes are the peak of the process, Python and
torch included, with MALLOC_MMAP_THRESHOLD_ and MALLOC_TRIM_THRESHOLD_ of 256 KiB, so that glibc gives freed gradients
back (without them 1B-8bit takes 0.04 bytes a parameter more). Ctrl-C ends it.

    python benchmarks/bytes.py [1B-8bit 1B-4bit 5B-4bit memory time] [--save]

5B-4bit needs 17 GB of free memory, and a few minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from datetime import date
from pathlib import Path
from typing import Any

import torch
from billion import CHUNK, peak, show, tile
from torch import Tensor, nn
from torch.nn import functional as F

import gradstep
from gradstep.lab.machine import describe_machine

RESULTS = Path(__file__).parent / "results" / "bytes.json"
TOKENS, VOCABULARY, HEAD = 16, 32_000, 64
SHAPES = {"1B": (2_048, 5_632, 22), "5B": (4_096, 14_336, 22), "350M": (1_024, 4_096, 17)}
"""Width, width of the MLP, and layers: TinyLlama's; 22 layers of Llama 3 8B; a small one. None ties embeddings."""

GOALS = {"1B-8bit": 4.6, "1B-4bit": 3.6, "5B-4bit": 3.25}
"""The most bytes a parameter."""

MALLOC = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")
LEAST_FREED, MOST_TIME = 0.80, 1.05
ROUNDS = 21


class Block(nn.Module):
    """Grouped-query attention and SwiGLU, as Llama's, without positions."""

    q: nn.Parameter
    k: nn.Parameter
    v: nn.Parameter
    o: nn.Parameter
    gate: nn.Parameter
    up: nn.Parameter
    down: nn.Parameter

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        sizes = {"q": (width, width), "k": (width // 4, width), "v": (width // 4, width), "o": (width, width)}
        sizes |= {"gate": (hidden, width), "up": (hidden, width), "down": (width, hidden)}
        for name, size in sizes.items():
            self.register_parameter(name, nn.Parameter(torch.empty(size)))
        self.norm, self.mlp_norm = nn.RMSNorm(width), nn.RMSNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q, k, v = (F.linear(h, w).unflatten(-1, (-1, HEAD)).transpose(0, 1) for w in (self.q, self.k, self.v))
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        x = x + F.linear(attended.transpose(0, 1).flatten(1), self.o)
        h = self.mlp_norm(x)
        return x + F.linear(F.silu(F.linear(h, self.gate)) * F.linear(h, self.up), self.down)


def make_model(size: str, dtype: torch.dtype) -> nn.Module:
    """Return a model whose weights have been written one by one, so that no second copy is ever in memory."""
    width, hidden, layers = SHAPES[size]
    noise = (0.02 * torch.randn(CHUNK, generator=torch.Generator().manual_seed(0))).to(dtype)
    with torch.device("meta"):
        blocks = (Block(width, hidden) for _ in range(layers))
        head = nn.Linear(width, VOCABULARY, bias=False)
        model = nn.Sequential(nn.Embedding(VOCABULARY, width), *blocks, nn.RMSNorm(width), head)
    for module in model.modules():
        for name, p in list(module.named_parameters(recurse=False)):
            value = torch.ones(p.shape, dtype=dtype) if p.ndim == 1 else tile(p.shape, noise)
            setattr(module, name, nn.Parameter(value))
    return model


def train(model: nn.Module, stepper: gradstep.Stepper, steps: int) -> list[float]:
    """Train, and return the seconds of each step."""
    seconds = []
    for number in range(steps):
        show(f"step {number + 1} of {steps}")
        x = torch.randint(VOCABULARY, (TOKENS,), generator=torch.Generator().manual_seed(number))
        begin = time.perf_counter()
        with stepper.autocast():
            loss = F.cross_entropy(model(x).float(), x.roll(-1))
        outcome = stepper.backward(loss)
        seconds.append(time.perf_counter() - begin)
        assert outcome is not None
        assert outcome.stepped, outcome
    show("", end="\r")
    return seconds


def measure_bytes(case: str) -> dict[str, Any]:
    """Train in bfloat16 with all state, that of embeddings too, in 8 or 4 bits."""
    size, state = case.split("-")
    model = make_model(size, torch.bfloat16)
    n = sum(p.numel() for p in model.parameters())
    groups = [{"params": list(model.named_parameters()), "state": state}]
    optimizer = gradstep.AdamW(groups, lr=1e-4, rounding="stochastic")
    seconds = train(model, gradstep.Stepper(model, optimizer, release_gradients=True), 2)
    own = sum(t.nbytes for entry in optimizer.state.values() for t in entry.values())
    return {"parameters": n, "state": own / n, "peak": peak() / n, "seconds": seconds}


def measure_peak(released: bool) -> dict[str, Any]:
    """Train a float32 model with gradients released or not."""
    model = make_model("350M", torch.float32)
    optimizer = gradstep.AdamW(model.named_parameters(), lr=1e-4)
    train(model, gradstep.Stepper(model, optimizer, release_gradients=released), 3)
    return {"peak": peak(), "gradients": 4 * sum(p.numel() for p in model.parameters())}


def measure_time() -> dict[str, Any]:
    """Time backward and step of GPT-2 small in float32 on 1 × 256 tokens, in turns with gradients released or not."""
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config())
    optimizer = gradstep.AdamW(model.named_parameters(), lr=1e-4)
    x = torch.randint(50_257, (1, 256), generator=torch.Generator().manual_seed(0))
    seconds: dict[str, list[float]] = {"kept": [], "released": []}
    for number in range(ROUNDS):
        show(f"round {number + 1} of {ROUNDS}")
        for way, times in seconds.items():
            release = gradstep.release_gradients(model, optimizer) if way == "released" else None
            for is_measured in (False, True):  # the first makes the hooks' and the allocator's state anew
                loss = model(x, labels=x).loss
                begin = time.perf_counter()
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                times += [time.perf_counter() - begin] * is_measured
            if release is not None:
                release.remove()
    show("", end="\r")
    return seconds


def report(results: dict[str, Any]) -> str:
    lines = ["| what | goal | measured | |", "| --- | ---: | ---: | --- |"]
    for case, goal in GOALS.items():
        if (found := results.get(case)) is None:
            continue
        words = f"{found['parameters'] / 1e9:.2f} B, {case.split('-')[1]} state of {found['state']:.2f} bytes each"
        note = f"steps of {' and '.join(f'{s:.1f} s' for s in found['seconds'])}"
        lines.append(
            row(f"bytes a parameter: {words}", f"≤ {goal:g}", f"{found['peak']:.2f}", found["peak"] <= goal, note)
        )
    if (found := results.get("memory")) is not None:
        kept, released = found
        share = (kept["peak"] - released["peak"]) / kept["gradients"]
        note = (
            f"{kept['peak'] / 1e9:.2f} and {released['peak'] / 1e9:.2f} GB, gradients {kept['gradients'] / 1e9:.2f} GB"
        )
        what = "memory that the release saves, of the gradients' (350 M, float32)"
        lines.append(row(what, f"≥ {LEAST_FREED:.0%}", f"{share:.0%}", share >= LEAST_FREED, note))
    if (found := results.get("time")) is not None:
        ratios = [b / a for a, b in zip(found["kept"], found["released"], strict=True)]
        low, ratio, high = statistics.quantiles(ratios)
        note = f"quartiles {low:.2f} to {high:.2f}; {statistics.median(found['kept']) * 1e3:.0f} ms without"
        what = "time of backward and step with the release (GPT-2 small, 1 × 256)"
        lines.append(row(what, f"≤ {MOST_TIME:g}×", f"{ratio:.3f}×", ratio <= MOST_TIME, note))
    return "\n".join(lines)


def row(what: str, goal: str, measured: str, met: bool, note: str) -> str:
    return f"| {what} | {goal} | {'' if met else '**missed:** '}{measured} | {note} |"


CASES = (*GOALS, "memory", "time")


def run_alone(*arguments: str) -> Any:
    thresholds = {} if arguments == ("time",) else dict.fromkeys(MALLOC, str(1 << 18))
    command, environment = [sys.executable, __file__, "--here", *arguments], {**os.environ, **thresholds}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=False)
    if done.returncode:
        sys.exit(f"{arguments[0]} did not come to its end (exit code {done.returncode}; -9: out of memory)")
    return json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(CASES)}; all by default")
    parser.add_argument("--save", action="store_true", help="write results/bytes.json and bytes.md")
    parser.add_argument("--here", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.here is not None:
        match arguments.here:
            case ["memory", way]:
                print(json.dumps(measure_peak(way == "released")))
            case ["time"]:
                print(json.dumps(measure_time()))
            case [case]:
                print(json.dumps(measure_bytes(case)))
        return
    if wrong := [case for case in arguments.cases if case not in CASES]:
        parser.error(f"{wrong[0]} is no case; there are {', '.join(CASES)}")
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    results |= {"date": date.today().isoformat(), "machine": describe_machine()}
    try:
        for case in arguments.cases or CASES:
            ways = [run_alone(case, way) for way in ("kept", "released")] if case == "memory" else None
            results[case] = run_alone(case) if ways is None else ways
    except KeyboardInterrupt:
        sys.exit("\nstopped: nothing was written")
    print(report(results))
    if arguments.save:
        RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        machine = results["machine"]
        made = f"Made by `python benchmarks/bytes.py --save` on {results['date']}, {machine['processor']}."
        RESULTS.with_suffix(".md").write_text(
            f"# Bytes a parameter\n\n{made}\n\n" + report(results) + "\n", encoding="utf-8"
        )


if __name__ == "__main__":
    main()

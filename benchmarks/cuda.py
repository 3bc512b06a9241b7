"""Check every kernel on an NVIDIA card, and time steps against torch, bitsandbytes and torchao: eight minutes at most.

    python benchmarks/cuda.py                  on a card: writes results/cuda.json and results/cuda.md
    python benchmarks/cuda.py --rehearse       on the CPU, with small tensors: whether the script works; writes nothing

Rivals take turns. A part for which no time is left is named as not run. Nobody has run it on a card yet.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from turns import take_turns, time_step

import gradstep
from gradstep.lab.bench_models import gpt2
from gradstep.lab.machine import describe_machine

RESULTS = Path(__file__).parent / "results" / "cuda.json"
SECONDS = 8 * 60.0
CHECK_SECONDS = 3 * 60.0
REPEAT = 20
AS_REFERENCE = "as the reference"

STORAGES: list[tuple[torch.dtype, dict[str, str]]] = [
    (torch.float32, {}),
    (torch.bfloat16, {"state": "8bit", "rounding": "stochastic"}),
    (torch.float32, {"state": "8bit"}),
    (torch.bfloat16, {"rounding": "kahan"}),
    (torch.bfloat16, {"rounding": "24bit", "state": "4bit"}),
    (torch.bfloat16, {"rounding": "master", "state": "bfloat16"}),
    (torch.float16, {"rounding": "stochastic"}),
    (torch.float64, {}),
]
"""Types of parameters and options of storage; the first ones are checked first for every rule."""

WORKS: dict[str, list[tuple[int, ...]]] = {
    "25 M": [(25_000_000,)],
    "GPT-2, 124 M": list(gpt2().values()),
    "2,000 × 64²": [(64, 64)] * 2_000,
    "1,000 M": [(50_000_000,)] * 20,
}
SMALL: dict[str, list[tuple[int, ...]]] = {"two small tensors": [(64, 64), (1_000,)]}
BYTES = {"float32": 28, "8-bit": 16, "bfloat16, stochastic, 8-bit": 10}
"""Bytes that a step of AdamW reads and writes for each element; the scales of blocks are not counted."""


def describe_failure(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".strip()


# -- the check --------------------------------------------------------------------------------------------------------


def check_kernels(device: str, until: float) -> list[dict[str, str]]:
    """Let every rule have its kernel checked on the card; one row for each rule and storage."""
    rules = sorted(name for name, kind in gradstep.RULES.items() if kind.sees == "elements")
    if device == "cpu":
        rules = ["AdamW", "SGD"]
    rows = []
    for (dtype, options), name in itertools.product(STORAGES, rules):
        words = ", ".join([str(dtype).removeprefix("torch."), *options.values()])
        row = {"rule": name, "storage": words, "result": "not run: no time was left"}
        if time.perf_counter() < until:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the reason is in the row
                row["result"] = check_kernel(name, torch.zeros(512, 512, dtype=dtype, device=device), options)
        rows.append(row)
        if row["result"] != AS_REFERENCE and not row["result"].startswith(("not run", "rehearsed")):
            print(f"{name}, {words}: {row['result']}", flush=True)
    return rows


def check_kernel(name: str, zeros: Tensor, options: Mapping[str, str]) -> str:
    p = zeros.requires_grad_()
    settings: dict[str, Any] = {"lr": 1e-3, **options, "engine": "fused"}
    if "state" in options and not gradstep.RULES[name]().slots(2):
        return "not run: the rule keeps no state"
    try:
        optimizer = gradstep.create(name, [p], **settings)
        p.grad = torch.ones_like(p)
        optimizer.step()
    except (TypeError, ValueError, RuntimeError) as error:
        return describe_failure(error)
    return AS_REFERENCE if zeros.is_cuda else "rehearsed"


# -- the speed --------------------------------------------------------------------------------------------------------


def make_rivals(params: list[Tensor], halves: list[Tensor]) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Yield the step of each rival that there is, by its name; those of a storage begin with its name."""
    yield "float32: gradstep", gradstep.AdamW(params, lr=1e-4).step
    yield "float32: torch fused", torch.optim.AdamW(params, lr=1e-4, fused=True).step
    yield "float32: torch foreach", torch.optim.AdamW(params, lr=1e-4, foreach=True).step
    clipped, plain = gradstep.AdamW(params, lr=1e-4), torch.optim.AdamW(params, lr=1e-4, fused=True)

    def clip_and_step() -> None:
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        plain.step()

    yield "float32, clipped: gradstep", lambda: clipped.step(max_grad_norm=1.0)
    yield "float32, clipped: torch fused", clip_and_step
    yield "8-bit: gradstep", gradstep.AdamW(params, lr=1e-4, state="8bit").step
    for title, module, name in (
        ("bitsandbytes", "bitsandbytes.optim", "AdamW8bit"),
        ("torchao", "torchao.optim", "AdamW8bit"),
    ):
        try:
            yield f"8-bit: {title}", getattr(importlib.import_module(module), name)(params, lr=1e-4).step
        except (ImportError, AttributeError):
            print(f"{title} is not installed")
    half = gradstep.AdamW(halves, lr=1e-4, state="8bit", rounding="stochastic")
    yield "bfloat16, stochastic, 8-bit: gradstep", half.step


def make_parameters(shapes: list[tuple[int, ...]], device: str, dtype: torch.dtype) -> list[Tensor]:
    params = [torch.randn(shape, device=device, dtype=dtype).requires_grad_() for shape in shapes]
    for p in params:
        p.grad = torch.randn_like(p)
    return params


def time_on(device: str, step: Callable[[], Any]) -> Callable[[], float]:
    """Return a function that takes a step, and returns the card's seconds for it (on the CPU, the clock's)."""
    if device == "cpu":
        return time_step(step)

    def timed() -> float:
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        step()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3

    return timed


def measure_copies(device: str, nbytes: int) -> float:
    """Return the bytes a second of a copy in the card's memory, read and written."""
    source = torch.zeros(nbytes, dtype=torch.uint8, device=device)
    goal = torch.empty_like(source)
    timed = time_on(device, lambda: goal.copy_(source))
    timed()
    return 2 * nbytes / statistics.median(timed() for _ in range(10))


def measure_work(device: str, shapes: list[tuple[int, ...]], bandwidth: float, repeat: int) -> dict[str, Any]:
    """Return the median seconds of every rival, and every time."""
    params = make_parameters(shapes, device, torch.float32)
    halves = make_parameters(shapes, device, torch.bfloat16)
    steps: dict[str, Callable[[], float]] = {}
    failures = {}
    for name, step in make_rivals(params, halves):
        try:
            step()
            step()
            steps[name] = time_on(device, step)
        except (RuntimeError, ValueError) as error:
            failures[name] = describe_failure(error)
    every = take_turns(steps, repeat)
    medians = {name: statistics.median(times) for name, times in every.items()}
    elements = sum(p.numel() for p in params)
    shares = {
        name: BYTES[storage] * elements / seconds / bandwidth
        for name, seconds in medians.items()
        if (storage := name.partition(":")[0]) in BYTES
    }
    return {"elements": elements, "seconds": medians, "share": shares, "failures": failures, "every": every}


def measure_memory(shapes: list[tuple[int, ...]]) -> dict[str, int]:
    """Return the card's most bytes in use while two steps are taken: parameters, gradients, state and temporaries."""
    kinds: dict[str, tuple[torch.dtype, Callable[[list[Tensor]], Any]]] = {
        "torch fused, float32": (torch.float32, lambda params: torch.optim.AdamW(params, fused=True)),
        "gradstep, float32": (torch.float32, gradstep.AdamW),
        "gradstep, 8-bit": (torch.float32, lambda params: gradstep.AdamW(params, state="8bit")),
        "gradstep, bfloat16, stochastic, 8-bit": (
            torch.bfloat16,
            lambda params: gradstep.AdamW(params, state="8bit", rounding="stochastic"),
        ),
    }
    peaks = {}
    for name, (dtype, make) in kinds.items():
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated()
        params = make_parameters(shapes, "cuda", dtype)
        torch.cuda.reset_peak_memory_stats()
        optimizer = make(params)
        optimizer.step()
        optimizer.step()
        peaks[name] = torch.cuda.max_memory_allocated() - before
        del params, optimizer
    return peaks


# -- the results ------------------------------------------------------------------------------------------------------


def write_page(content: Mapping[str, Any]) -> str:
    """Return the page of the results."""
    lines = [
        "# On an NVIDIA card",
        "",
        f"Made by `python benchmarks/cuda.py` on {content['date']}: {content['machine']['device']}, "
        f"torch {content['machine']['torch']}.",
        "",
        f"A copy in the card's memory moves {content['copy'] / 1e12:.2f} TB/s. Times are medians of {REPEAT} steps, in "
        "turns.",
    ]
    for title, work in content["works"].items():
        lines += ["", f"## AdamW, {title}", ""]
        if "reason" in work:
            lines.append(work["reason"])
            continue
        lines += ["| | ms | share of the copy's speed |", "|---|---|---|"]
        for name, seconds in work["seconds"].items():
            share = work["share"].get(name)
            lines.append(f"| {name} | {1e3 * seconds:.3f} | {'' if share is None else f'{share:.2f}'} |")
        lines += [f"| {name} | failed: {reason} | |" for name, reason in work["failures"].items()]
    lines += ["", "## Peak memory of two steps on GPT-2's parameters", ""]
    lines += [f"- {name}: {nbytes / 2**20:,.0f} MiB" for name, nbytes in content["memory"].items()] or ["Not run."]
    lines += ["", "## CUDA graphs", "", "Not run: a step of gradstep cannot be replayed."]
    lines += ["", "## Kernels that were checked", "", "| rule | storage | result |", "|---|---|---|"]
    lines += [f"| {row['rule']} | {row['storage']} | {row['result']} |" for row in content["kernels"]]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rehearse", action="store_true", help="run on the CPU with small tensors, and write nothing")
    rehearse = parser.parse_args().rehearse
    if not rehearse and not torch.cuda.is_available():
        raise SystemExit("not run: torch sees no NVIDIA card here (--rehearse tries the script on the CPU)")
    device, begin = "cpu" if rehearse else "cuda", time.perf_counter()
    content: dict[str, Any] = {"machine": describe_machine(), "date": date.today().isoformat(), "works": {}}
    content["machine"]["device"] = "a rehearsal on the CPU" if rehearse else torch.cuda.get_device_name()
    content["copy"] = measure_copies(device, 1 << 20 if rehearse else 1 << 30)
    for title, shapes in (SMALL if rehearse else WORKS).items():
        content["works"][title] = {"reason": "Not run: no time was left."}
        if time.perf_counter() < begin + SECONDS - CHECK_SECONDS:
            try:
                work = measure_work(device, shapes, content["copy"], 2 if rehearse else REPEAT)
            except RuntimeError as error:  # the card's memory is full, say
                work = {"reason": f"Not run: {describe_failure(error)}"}
            content["works"][title] = work
            print(title, {name: f"{1e3 * seconds:.3f} ms" for name, seconds in work.get("seconds", {}).items()})
    content["memory"] = {} if rehearse else measure_memory(WORKS["GPT-2, 124 M"])
    content["kernels"] = check_kernels(device, begin + SECONDS - 10)
    page = write_page(content)
    if rehearse:
        print(page)
        return
    RESULTS.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    RESULTS.with_suffix(".md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()

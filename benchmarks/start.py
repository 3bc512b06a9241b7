"""Measure import and first step in fresh processes; medians in seconds.

gradstep saves no compiled code on disk, so every process compiles: there is no second figure "from cache".
The first step imports LLVM, compiles, and creates the state.

    python benchmarks/start.py              plain AdamW against torch's
    python benchmarks/start.py --storages   the first step of other storages, clipped and watched
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys

REPEAT = 5
# As for users, Python keeps what it compiles: with this variable every process would compile all files of gradstep,
# and none of torch, whose installer has compiled them.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

CHILD = """
import json, sys, time
seconds = {{}}
def lap(name, begin): seconds[name] = time.perf_counter() - begin
begin = time.perf_counter(); import torch; lap("import torch", begin)
{load}
model = torch.nn.Sequential(torch.nn.Linear(784, 256), torch.nn.ReLU(), torch.nn.Linear(256, 10))
model(torch.ones(8, 784)).sum().backward()
begin = time.perf_counter(); optimizer = {optimizer}; lap("constructor", begin)
begin = time.perf_counter(); optimizer.step(); lap("first step", begin)
begin = time.perf_counter(); optimizer.step(); lap("second step", begin)
print(json.dumps(seconds))
"""

LOAD = 'begin = time.perf_counter(); import gradstep; gradstep.AdamW; lap("import gradstep", begin)'

CASES = {
    "gradstep": CHILD.format(load=LOAD, optimizer="gradstep.AdamW(model.parameters())"),
    "torch fused": CHILD.format(load="", optimizer="torch.optim.AdamW(model.parameters(), fused=True)"),
}


STORAGES = {
    "float32": ("torch.float32", ""),
    "8-bit state": ("torch.float32", "state='8bit'"),
    "bfloat16 weights, stochastic, 8-bit state": ("torch.bfloat16", "state='8bit', rounding='stochastic'"),
    "bfloat16 weights, Kahan, 8-bit state": ("torch.bfloat16", "state='8bit', rounding='kahan'"),
}
STEPS = {
    "plain": "optimizer.step()",
    "clipped": "optimizer.step(max_grad_norm=1.0)",
    "clipped, watched": "optimizer.watch = 'parameters'; optimizer.step(max_grad_norm=1.0)",
}
OTHERS = {
    f"{storage}; {step}": CHILD.format(load=LOAD, optimizer=f"gradstep.AdamW(model.parameters(), {options})")
    .replace("nn.Linear(256, 10))", f"nn.Linear(256, 10)).to({dtype})")
    .replace("torch.ones(8, 784)", f"torch.ones(8, 784, dtype={dtype})")
    .replace("optimizer.step()", call, 1)
    for storage, (dtype, options) in STORAGES.items()
    for step, call in STEPS.items()
}


def measure(repeat: int = REPEAT, cases: dict[str, str] = CASES) -> dict[str, dict[str, float]]:
    """Median seconds of each lap, by case; the cases take turns."""
    laps: dict[str, list[dict[str, float]]] = {name: [] for name in cases}
    for _ in range(repeat + 1):
        for name, code in cases.items():
            child = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
            laps[name].append(json.loads(child.stdout))
    return {
        name: {lap: round(statistics.median(run[lap] for run in runs[1:]), 5) for lap in runs[0]}
        for name, runs in laps.items()  # the first run fills the disk's cache
    }


if __name__ == "__main__":
    chosen = measure(3, OTHERS) if "--storages" in sys.argv[1:] else measure()
    for name, seconds in chosen.items():
        for lap, median in seconds.items():
            print(f"{name:{max(map(len, chosen))}} {lap:16} {1e3 * median:9.1f} ms")

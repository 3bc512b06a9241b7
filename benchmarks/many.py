"""Measure first step, second step and loading of a checkpoint for 100,000 parameters of 16 elements.

gradstep and torch's fused AdamW take turns in fresh processes; the figures are medians in seconds. The first step
creates the state; gradstep's also imports LLVM and compiles. An optimizer of one parameter is made first, since torch
imports its compiler with its first optimizer.

torch's load_state_dict searches the list of all parameters for each of them, which takes minutes for 100,000. It is
measured with a tenth of the parameters and the time multiplied by ten, which favours torch.

    python benchmarks/many.py [--parameters 100000] [--repeat 1]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys

PARAMETERS, REPEAT = 100_000, 1
FIRST, LOAD = "first step", "load_state_dict"

CHILD = """
import gc, json, time, torch, gradstep

def make(number):
    params = [torch.full((16,), 0.5, requires_grad=True) for _ in range(number)]
    for p in params:
        p.grad = torch.full((16,), 0.01)
    return params

def lap(name, function):
    gc.collect()
    begin = time.perf_counter()
    made = function()
    seconds[name] = time.perf_counter() - begin
    return made

seconds = {{}}
kind, options = {kind}
kind(make(1), **options)
params, others = make({parameters}), make({parameters})
optimizer = lap("constructor", lambda: kind(params, **options))
lap("first step", optimizer.step)
lap("second step", optimizer.step)
lap("state_dict", optimizer.state_dict)
some = {parameters} // {share}
one, other = kind(params[:some], **options), kind(others[:some], **options)
one.step()
saved = one.state_dict()
lap("load_state_dict", lambda: other.load_state_dict(saved))
seconds["load_state_dict"] *= {share}
print(json.dumps(seconds))
"""

KINDS = {"gradstep": ("gradstep.AdamW, {}", 1), "torch fused": ('torch.optim.AdamW, {"fused": True}', 10)}
"""The class with its options, and the divisor of the number of loaded parameters."""


def measure(parameters: int = PARAMETERS, repeat: int = REPEAT) -> dict[str, dict[str, float]]:
    """Return the median seconds of each lap, by optimizer; the optimizers take turns."""
    laps: dict[str, list[dict[str, float]]] = {name: [] for name in KINDS}
    for _ in range(repeat):
        for name, (kind, share) in KINDS.items():
            code = CHILD.format(kind=kind, parameters=parameters, share=share)
            child = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
            laps[name].append(json.loads(child.stdout))
    return {
        name: {lap: round(statistics.median(run[lap] for run in runs), 4) for lap in runs[0]}
        for name, runs in laps.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parameters", type=int, default=PARAMETERS)
    parser.add_argument("--repeat", type=int, default=REPEAT)
    arguments = parser.parse_args()
    seconds = measure(arguments.parameters, arguments.repeat)
    print(f"{'seconds':20}" + "".join(f"{name:>14}" for name in seconds) + f"{'ratio':>10}")
    for lap in seconds["gradstep"]:
        ours, theirs = (seconds[name][lap] for name in KINDS)
        print(f"{lap:20}{ours:14.3f}{theirs:14.3f}{ours / theirs:10.2f}")


if __name__ == "__main__":
    main()

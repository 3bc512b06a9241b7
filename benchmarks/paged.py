"""Compare AdamW with its state in a file with AdamW with its state in memory.

One tensor of 25.2 M float32 parameters has 201 MB of state. The optimizers share parameter and gradient and take turns
in one process; the system's page cache holds all files. Then a separate process measures the peak memory of a run whose
state is four times its budget.

    python benchmarks/paged.py [--folder DIR] [--repeat 31] [--save]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import gradstep
from gradstep.lab.machine import OtherPrograms, describe_machine

SHAPE = (24_576, 1_024)  # 25.2 M
STATE = 8 * SHAPE[0] * SHAPE[1]
RESIDENT = "in memory"
BUDGETS = {
    "paged, budget above the state": STATE + (1 << 20),
    "paged, budget 1/2": STATE // 2,
    "paged, budget 1/4": STATE // 4,
}
RATIO_GOAL = 1.10
MEMORY_GOAL = 100_000_000
MEMORY_STEPS = 10
RESULTS = Path(__file__).parent / "results" / "paged.json"


def parameter() -> Tensor:
    p = torch.randn(SHAPE).requires_grad_()
    p.grad = torch.randn(SHAPE).mul_(1e-2)
    return p


def optimizer_of(p: Tensor, **placement: Any) -> torch.optim.Optimizer:
    return gradstep.AdamW([p], lr=1e-4, weight_decay=0.1, **placement)


def times(folder: Path, repeat: int) -> dict[str, Any]:
    """Return every measured time; the resident optimizer and the paged ones take turns."""
    p = parameter()
    optimizers = {RESIDENT: optimizer_of(p)}
    for number, (name, budget) in enumerate(BUDGETS.items()):
        optimizers[name] = optimizer_of(p, paged=folder / str(number), page_budget=budget)
    for _ in range(2):  # the first step compiles and makes the state
        for optimizer in optimizers.values():
            optimizer.step()
    seconds: dict[str, list[float]] = {name: [] for name in optimizers}
    others = OtherPrograms()
    names = list(optimizers)
    for turn in range(repeat):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            begin = time.perf_counter()
            optimizers[name].step()
            seconds[name].append(time.perf_counter() - begin)
        print(f"\rturn {turn + 1} of {repeat}", end="", flush=True)
    print()
    return {"seconds": seconds, "others": others.share()}


def resident(what: str = "VmRSS") -> int:
    """Return this process's memory in bytes: now (``VmRSS``) or at its peak (``VmHWM``)."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(what))


def memory(folder: Path) -> dict[str, int]:
    """Return the peak bytes of a run whose state is four times its budget, without the memory before the first step."""
    p = parameter()
    optimizer = optimizer_of(p, paged=folder / "memory", page_budget=STATE // 4)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # VmHWM starts over
    before = resident()
    for _ in range(MEMORY_STEPS):
        optimizer.step()
    return {"state": STATE, "budget": STATE // 4, "peak": resident("VmHWM") - before}


def table(results: dict[str, Any]) -> str:
    base = statistics.median(results["seconds"][RESIDENT])
    lines = ["| AdamW, 25.2 M float32 parameters, state | step | × in memory |", "| --- | ---: | ---: |"]
    for name, seconds in results["seconds"].items():
        median = statistics.median(seconds)
        lines.append(f"| {name} | {median * 1e3:.1f} ms | {median / base:.2f}× |")
    used = results["memory"]
    lines.append(
        f"\nState of {used['state'] / 1e6:.0f} MB, budget {used['budget'] / 1e6:.0f} MB, in a process of its own: "
        f"at most {used['peak'] / 1e6:.0f} MB more than before there was state, in {MEMORY_STEPS} steps."
    )
    worst = max(statistics.median(results["seconds"][name]) for name in BUDGETS) / base
    verdicts = [
        (f"at most {RATIO_GOAL:.2f} times the time in memory", worst <= RATIO_GOAL),
        ("memory under the budget and 100 MB", used["peak"] <= used["budget"] + MEMORY_GOAL),
    ]
    lines += ["", "; ".join(f"{words}: {'reached' if true else 'missed'}" for words, true in verdicts) + "."]
    lines.append(f"\nOther programs took {results['others']:.1%} of the processors meanwhile.")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where the files are made; best on the disk that you would use")
    parser.add_argument("--repeat", type=int, default=31)
    parser.add_argument("--save", action="store_true", help="write results/paged.json and paged.md")
    parser.add_argument("--memory-in", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory_in:
        print(json.dumps(memory(arguments.memory_in)))
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        command = [sys.executable, __file__, "--memory-in", name]
        used = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
        results = {"date": date.today().isoformat(), "machine": describe_machine(), "memory": used}
        results |= times(Path(name), arguments.repeat)
    print(table(results))
    if arguments.save:
        RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        head = "# Paged state\n\nMade by `python benchmarks/paged.py --save`; every measured time is in paged.json.\n\n"
        RESULTS.with_suffix(".md").write_text(head + table(results) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

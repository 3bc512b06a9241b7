"""Measure a step on sharded parameters against torch's fused AdamW on the same DTensors, with two processes.

The parameters are sharded by rows, as fully_shard does. Each process has one thread; the processes begin every step
together, and a step's time is that of the slower one. The rivals take turns. "Clipping" compares
step(max_grad_norm=1.0) with clip_grad_norm_ followed by torch's fused step.

    python benchmarks/distributed.py [--repeat 40] [--save]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from turns import take_turns

import gradstep
from gradstep.lab.machine import describe_machine

RESULTS = Path(__file__).parent / "results" / "distributed.json"
RANKS = 2
WORKS = {"200 × 64²": [(64, 64)] * 200, "4 × 2048²": [(2048, 2048)] * 4}


def measure(rank: int, folder: str, repeat: int) -> None:
    """Measure as one rank; rank 0 writes the rows."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=RANKS)
    mesh, rows = init_device_mesh("cpu", (RANKS,)), []
    for title, shapes in WORKS.items():
        torch.manual_seed(0)
        params = [nn.Parameter(distribute_tensor(torch.randn(shape), mesh, [Shard(0)])) for shape in shapes]
        for p in params:
            p.grad = torch.randn_like(p)
        whole = gradstep.AdamW(params, lr=1e-4)
        few_bits = gradstep.AdamW(params, lr=1e-4, state="8bit", seed=0)
        fused = torch.optim.AdamW(params, lr=1e-4, fused=True)

        def clip_and_step(params: list[Any] = params, fused: Any = fused) -> None:
            nn.utils.clip_grad_norm_(params, 1.0)
            fused.step()

        steps: dict[str, Callable[[], None]] = {
            "gradstep": whole.step,
            "gradstep 8bit": few_bits.step,
            "torch fused": fused.step,
            "gradstep, clipping": lambda whole=whole: whole.step(max_grad_norm=1.0),
            "torch fused, clipping": clip_and_step,
        }
        for step in steps.values():  # creates state, compiles, and chooses the pattern of memory access
            for _ in range(10):
                step()
        seconds = take_turns({name: _timed(step) for name, step in steps.items()}, repeat)
        medians = {name: statistics.median(times) for name, times in seconds.items()}
        rows.append({"work": title, "seconds": medians, "every": seconds})
    if rank == 0:
        Path(folder, "rows").write_text(json.dumps(rows), encoding="utf-8")
    dist.barrier()
    dist.destroy_process_group()


def _timed(step: Callable[[], None]) -> Callable[[], float]:
    """Return a function that takes a step on all ranks together, and returns the seconds of the slowest."""

    def run() -> float:
        dist.barrier()
        begin = time.perf_counter()
        step()
        seconds = torch.tensor([time.perf_counter() - begin])
        dist.all_reduce(seconds, dist.ReduceOp.MAX)
        return float(seconds)

    return run


def measure_rows(repeat: int) -> list[dict[str, Any]]:
    """Start the processes, print a table, and return its rows."""
    os.environ.update(GLOO_SOCKET_IFNAME="lo", OMP_NUM_THREADS="1")
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(measure, (folder, repeat), RANKS)
        rows: list[dict[str, Any]] = json.loads(Path(folder, "rows").read_text(encoding="utf-8"))
    for row in rows:
        seconds = row["seconds"]
        for name, rival in (
            ("gradstep", "torch fused"),
            ("gradstep 8bit", "torch fused"),
            ("gradstep, clipping", "torch fused, clipping"),
        ):
            ratio = seconds[rival] / seconds[name]
            print(f"{row['work']:10} {name:20} {1e3 * seconds[name]:7.2f} ms  {rival:22}", end="")
            print(f"{1e3 * seconds[rival]:7.2f} ms  {ratio:5.2f} times as fast")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=40)
    parser.add_argument("--save", action="store_true", help=f"write {RESULTS.name} into results/")
    arguments = parser.parse_args()
    rows = measure_rows(arguments.repeat)
    content = {"machine": describe_machine(), "ranks": RANKS, "date": date.today().isoformat(), "rows": rows}
    if arguments.save:
        RESULTS.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

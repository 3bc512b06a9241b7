"""Common parts of the benchmarks of the training loop: sizes of models, turns, and results with their machine."""

from __future__ import annotations

import argparse
import gc
import json
import time
from collections.abc import Callable, Mapping
from datetime import date
from pathlib import Path
from typing import Any

from gradstep.lab.machine import OtherPrograms, describe_machine

_LAYER = [(1536, 512), (1536,), (512, 512), (512,), (2048, 512), (2048,), (512, 2048), (512,), (512,), (512,)]
WORKS: dict[str, list[tuple[int, ...]]] = {
    "one tensor of 25 M": [(25_000_000,)],
    "a transformer of 25.5 M, 82 tensors": [(512, 512), (128, 512), *_LAYER * 8],
    "2,000 tensors of 64×64": [(64, 64)] * 2_000,
}
"""Shapes of the parameters, by title."""


def time_step(step: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> Callable[[], float]:
    """Return a function that takes a step, and returns its seconds by the clock."""

    def timed() -> float:
        begin = clock()
        step()
        return clock() - begin

    return timed


def take_turns(rivals: Mapping[str, Callable[[], float]], repeat: int) -> dict[str, list[float]]:
    """Return the seconds of every rival and repetition; each repetition has another order."""
    order, seconds = list(rivals), {name: list[float]() for name in rivals}
    gc.collect()
    gc.disable()
    try:
        for _ in range(repeat):
            for name in order:
                seconds[name].append(rivals[name]())
            order.append(order.pop(0))
    finally:
        gc.enable()
    return seconds


def main(about: str | None, repeat: int, results: Path, rows: Callable[[int], list[dict[str, Any]]]) -> None:
    """Run a benchmark with the arguments of the command line.

    Args:
        about: description of the benchmark.
        repeat: default number of repetitions.
        results: file that ``--save`` writes.
        rows: takes the number of repetitions, measures, and returns the rows.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=repeat)
    parser.add_argument("--save", action="store_true", help=f"write {results.name} into results/")
    arguments = parser.parse_args()
    programs, measured = OtherPrograms(), rows(arguments.repeat)
    others = programs.share()
    if others is not None:
        print(f"other programs took {others:.1%} of the processors")
    content = {"machine": describe_machine(), "date": date.today().isoformat(), "others": others, "rows": measured}
    if arguments.save:
        results.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

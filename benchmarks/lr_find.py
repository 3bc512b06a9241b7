"""Compare the learning-rate finder's recommendation with the best of a grid of 12 learning rates.

For every task and seed, the model is trained from the same start with each learning rate of the grid, and with every
suggestion of a finder that made three sweeps from that start. A run's loss is the held-out loss, averaged over the
evaluations (every 10 steps) in the last third of the run; the learning rate is constant, the optimizer is AdamW.

Every finished run is a line in the file of results and is not run again, so the program can be stopped and started
at any time. At the end, or with --table alone, it writes the table.

    python benchmarks/lr_find.py [--quick] [--jobs finder grid] [--table] [--file results/lr_find.jsonl]
"""

from __future__ import annotations

import argparse
import json
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch: its waiting threads would occupy cores

import numpy as np
import torch
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

import gradstep
from gradstep.lab.machine import describe_machine
from gradstep.lab.task import Task, isolate_random
from gradstep.lab.tasks import TASKS

RESULTS = Path(__file__).parent / "results" / "lr_find.jsonl"
STEPS = {"digits": 300, "text": 200}
STRIDE = 10
SEEDS = range(5)
SWEEPS, UPDATES = 3, 100
GRID = [10 ** (i / 3 - 4) for i in range(12)]
GOAL = 1.10
METHODS = ("steepest", "valley", "a tenth of the minimum", "a tenth of the explosion")
"""The names of suggestions, as :class:`gradstep.LrSuggestion` documents them; the first is the one recommended."""

Record = dict[str, Any]


def loss_of(task: Task, seed: int, lr: float, steps: int) -> float:
    """Return the held-out loss that training with this learning rate reaches; infinity if it diverges."""
    model, batches = task.model(seed), task.batches(seed)
    optimizer = gradstep.AdamW(model.parameters(), lr=lr)
    losses = []
    with isolate_random(seed):
        for step in range(1, steps + 1):
            loss = task.loss(model, next(batches))
            if not math.isfinite(loss.item()):
                return math.inf
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            if step % STRIDE == 0 and step > steps * 2 // 3:
                losses.append(task.evaluate(model).loss)
    return fmean(losses) if all(map(math.isfinite, losses)) else math.inf


def train(task: Task, seed: int, lr: float, steps: int) -> Record:
    """Train once and return a line of the results."""
    loss = loss_of(task, seed, lr, steps)
    return {"kind": "train", "task": task.name, "seed": seed, "steps": steps, "lr": lr, "loss": loss}


def find(task: Task, seed: int) -> Record:
    """Run a finder once and return a line of the results, with its curves."""
    model = task.model(seed)
    stepper = gradstep.Stepper(model, gradstep.AdamW(model.parameters()))
    # Other seeds, and so other batches, than the training, which uses the seed itself.
    result = gradstep.lr_find(
        stepper, task.loss, task.batches, updates=UPDATES, sweeps=SWEEPS, seed=1000 + SWEEPS * seed
    )
    assert set(METHODS) >= result.suggestions.keys()
    assert result.refusal or result.recommended.name == METHODS[0]
    return {
        "kind": "find",
        "task": task.name,
        "seed": seed,
        "refusal": result.refusal,
        "suggestions": {name: [s.lr, s.low, s.high] for name, s in result.suggestions.items()},
        "curves": [np.round(sweep.losses, 4).tolist() for sweep in result.sweeps],
    }


class Book:
    """The file of results; a run that is in it is not run again."""

    def __init__(self, file: Path) -> None:
        self._file = file
        lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
        self.records: list[Record] = [json.loads(line) for line in lines]

    def of(self, kind: str, **keys: Any) -> list[Record]:
        """Return the lines of a kind with these values."""
        return [r for r in self.records if r["kind"] == kind and all(r[k] == v for k, v in keys.items())]

    def ensure(self, kind: str, run: Callable[[], Record], **keys: Any) -> Record:
        """Return the line with these values; run it if there is none."""
        records = self.of(kind, **keys)
        if records:
            return records[0]
        record = run()
        self.records.append(record)
        with self._file.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(record) + "\n")
        return record


def jobs(book: Book, names: list[str], seeds: range, steps: dict[str, int]) -> Iterator[str]:
    """Make all runs, one after the other, and yield the name of each."""

    def ensure_training(task: Task, seed: int, lr: float) -> None:
        n = steps[task.name]
        book.ensure("train", lambda: train(task, seed, lr, n), task=task.name, seed=seed, lr=lr, steps=n)

    for seed in seeds:
        for task in map(TASKS.__getitem__, STEPS):
            if "finder" in names:
                record = book.ensure("find", lambda t=task, s=seed: find(t, s), task=task.name, seed=seed)  # type: ignore[misc]
                yield f"{task.name}, seed {seed}: sweeps"
                for name in METHODS:
                    if name in record["suggestions"]:
                        ensure_training(task, seed, record["suggestions"][name][0])
                    yield f"{task.name}, seed {seed}: {name}"
            if "grid" in names:
                for lr in GRID:
                    ensure_training(task, seed, lr)
                    yield f"{task.name}, seed {seed}: lr {lr:.2g}"


def table(book: Book, seeds: range, steps: dict[str, int]) -> str:
    """Return the results as Markdown."""
    lines = [
        "# The learning-rate finder against a grid",
        "",
        f"Made by `python benchmarks/lr_find.py` from `lr_find.jsonl`. {len(seeds)} seeds; AdamW with its defaults; "
        f"{', '.join(f'{n} steps of {name}' for name, n in steps.items())} at a constant learning rate; the finder "
        f"made {SWEEPS} sweeps of {UPDATES} updates, on other batches than the training; the grid has {len(GRID)} "
        f"learning rates from {GRID[0]:g} to {GRID[-1]:.2g}. A run's loss is the held-out loss averaged over the last "
        "third of its steps.",
        "",
        "× *grid* is the loss, averaged over the seeds, over that of the one learning rate of the grid whose average "
        "is lowest. × *own* is the mean ratio to the lowest of the same seed's twelve, which is harder: the best of "
        "twelve noisy runs is lucky, as the line of the grid's best single learning rate shows. The goal, on "
        f"× *grid*, is ≤ {GOAL:.2f}.",
    ]
    for task in STEPS:
        n = steps[task]
        loss = {(r["seed"], r["lr"]): r["loss"] for r in book.of("train", task=task, steps=n)}
        finds = {r["seed"]: r for r in book.of("find", task=task)}
        average = {lr: fmean(loss[seed, lr] for seed in seeds) for lr in GRID}
        best = min(average, key=average.__getitem__)
        own = [min(loss[seed, lr] for lr in GRID) for seed in seeds]
        near = [lr for lr in GRID if average[lr] <= GOAL * average[best]]
        lines += [
            "",
            f"## {task}",
            "",
            f"Best of the grid: lr {best:.2g} with loss {average[best]:.4g}; within 10 % of it: "
            f"{', '.join(f'{lr:.2g}' for lr in near)}.",
            "",
            "| learning rate | of the seeds | loss | × grid | × own | seeds within 10 % of own |",
            "| --- | --- | ---: | ---: | ---: | ---: |",
        ]
        rows: list[tuple[str, list[float] | None]] = [(f"one for all: {best:.2g}", [best] * len(seeds))]
        for name in METHODS:
            suggestions = [finds[seed]["suggestions"].get(name) for seed in seeds]
            mark = " (recommended)" if name == METHODS[0] else ""
            rows.append((name + mark, [one[0] for one in suggestions] if all(suggestions) else None))
        for name, rates in rows:
            if rates is None:
                lines.append(f"| {name} | not suggested for every seed | | | | |")
                continue
            reached = [loss[seed, lr] for seed, lr in zip(seeds, rates)]
            ratios = [a / b for a, b in zip(reached, own)]
            lines.append(
                f"| {name} | {', '.join(f'{lr:.2g}' for lr in rates)} | {fmean(reached):.4g} | "
                f"{fmean(reached) / average[best]:.3f} | {fmean(ratios):.3f} | "
                f"{sum(r <= GOAL for r in ratios)} of {len(seeds)} |"
            )
        lines += [
            "",
            "| grid | " + " | ".join(f"{lr:.2g}" for lr in GRID) + " |",
            "| --- |" + " ---: |" * len(GRID),
            "| mean loss | " + " | ".join(f"{average[lr]:.3g}" for lr in GRID) + " |",
        ]
        refused = [seed for seed in seeds if finds[seed]["refusal"]]
        if refused:
            lines += ["", f"Refused for the seeds {refused}: {finds[refused[0]]['refusal']}"]
    machine = ", ".join(f"{key} {value}" for key, value in describe_machine().items())
    return "\n".join([*lines, "", f"One thread. The machine: {machine}.", ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one seed and a tenth of the steps, into runs/")
    parser.add_argument("--jobs", nargs="*", choices=("finder", "grid"), default=["finder", "grid"])
    parser.add_argument("--table", action="store_true", help="run nothing, write the table")
    parser.add_argument("--file", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    seeds = range(1) if arguments.quick else SEEDS
    steps = {name: n // 10 if arguments.quick else n for name, n in STEPS.items()}
    file = Path("runs/lr_find_quick.jsonl") if arguments.quick else arguments.file
    file.parent.mkdir(parents=True, exist_ok=True)
    book = Book(file)
    if not arguments.table:
        total = (
            len(seeds)
            * len(STEPS)
            * ((1 + len(METHODS)) * ("finder" in arguments.jobs) + len(GRID) * ("grid" in arguments.jobs))
        )
        shown = TextColumn("{task.description}"), MofNCompleteColumn(), TimeRemainingColumn()
        with Progress(*shown) as progress:
            bar = progress.add_task("starting", total=total)
            for done in jobs(book, arguments.jobs, seeds, steps):
                progress.update(bar, advance=1, description=done)
    if set(arguments.jobs) == {"finder", "grid"}:
        file.with_suffix(".md").write_text(table(book, seeds, steps), encoding="utf-8")


if __name__ == "__main__":
    main()

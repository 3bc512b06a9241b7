"""The learning-rate finder against a grid: does what it recommends train as well as the best of 12 learning rates?

For every task and seed, the model is trained from the same start with each learning rate of the grid, and with every
suggestion of a finder that saw three sweeps from that start. A run's loss is the held-out loss, averaged over the
evaluations (every 10 steps) in the last third of the run; the learning rate is constant, the optimizer is AdamW.

Every finished run is a line in the file of results; a run that is there is not run again, so that the program may be
stopped and started at will.

    python benchmarks/lr_find.py [--quick] [--table] [--jobs grid finder]
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any, cast

import torch
from rich.progress import Progress

import gradstep
from gradstep.lab.machine import describe
from gradstep.lab.task import Task, seeded
from gradstep.lab.tasks import TASKS

RESULTS = Path(__file__).parent / "results" / "lr_find.jsonl"
TABLE = RESULTS.with_suffix(".md")
STEPS = {"digits": 300, "text": 200}
STRIDE = 10
SEEDS = range(5)
SWEEPS, UPDATES = 3, 100
GRID = [10 ** (i / 3 - 4) for i in range(12)]
GOAL = 1.10


def loss_of(task: Task, seed: int, lr: float, steps: int) -> float:
    """The held-out loss that training with this learning rate reaches; infinity if it diverges."""
    model, batches = task.model(seed), task.batches(seed)
    optimizer = gradstep.AdamW(model.parameters(), lr=lr)
    found = []
    with seeded(seed):
        for step in range(1, steps + 1):
            loss = task.loss(model, next(batches))
            if not math.isfinite(loss.item()):
                return math.inf
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            if step % STRIDE == 0 and step > steps * 2 // 3:
                found.append(task.evaluate(model).loss)
    return fmean(found) if all(map(math.isfinite, found)) else math.inf

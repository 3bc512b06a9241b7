"""What storing state or parameters in fewer bits costs in loss: training the lab's `text` task in every precision.

Two comparisons, each against float32 with the same seed (the same start, batches and dropout):

- state: float32 parameters at the task's own learning rate, their state in float32, bfloat16 or 8 bits;
- parameters: a bfloat16 model at a learning rate of 1e-4, its parameters rounded in each way, state in float32.

"float32, nudged" starts from weights that differ by a part in 10⁶: what it differs by at the end is what chance
does, and no storage can be told from float32 more finely. Each run appends one line to the file of results as it
ends, and a run that stands there already is not made again.

    python benchmarks/precision.py [--quick] [--steps 1000] [--results FILE] [--chart FILE] [--table]
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn

import gradstep
from gradstep.lab.task import judging, seeded
from gradstep.lab.tasks.text import CONTEXT, Text, corpus, windows

HERE = Path(__file__).parent / "results"
SEEDS = (1, 2, 3)
EVERY = 100
"""Steps between two looks at the held-out text."""


@dataclass(frozen=True)
class Case:
    """What is trained, and how it is stored."""

    part: str
    name: str
    lr: float
    dtype: str = "float32"
    state: str = "float32"
    rounding: str = "nearest"
    nudge: float = 0.0


CASES = (
    Case("state", "float32", 1e-3),
    Case("state", "float32, nudged", 1e-3, nudge=1e-6),
    Case("state", "bfloat16", 1e-3, state="bfloat16"),
    Case("state", "8bit", 1e-3, state="8bit"),
    Case("parameters", "float32", 1e-4),
    Case("parameters", "nearest", 1e-4, "bfloat16"),
    Case("parameters", "stochastic", 1e-4, "bfloat16", rounding="stochastic"),
    Case("parameters", "kahan", 1e-4, "bfloat16", rounding="kahan"),
    Case("parameters", "master", 1e-4, "bfloat16", rounding="master"),
    Case("parameters", "stochastic + 8bit", 1e-4, "bfloat16", "8bit", "stochastic"),
)


@dataclass
class Run:
    """One training."""

    part: str
    name: str
    seed: int
    steps: int
    state_bytes: int
    """Of all parameters, as ``state_summary()`` counts them."""
    small: int
    """Elements of the parameters whose state is not kept in float32."""
    small_bytes: int
    """Bytes of their state."""
    loss: list[tuple[int, float]] = field(default_factory=list)
    """(step, mean cross-entropy over all of the held-out text, in nats a byte), judged in float32."""
    unmoved: list[tuple[int, float]] = field(default_factory=list)
    """(step, share of elements with a gradient whose stored value this step did not change)."""
    seconds: float = 0.0

    @property
    def key(self) -> tuple[str, str, int, int]:
        return self.part, self.name, self.seed, self.steps

    @property
    def final(self) -> float:
        return self.loss[-1][1]


def held_out_loss(model: nn.Module) -> float:
    """Over every window of the held-out text, computed in float32 with the weights as they are stored."""
    model = copy.deepcopy(model).float()
    _, tokens = corpus()
    starts = torch.arange(0, len(tokens) - CONTEXT - 1, CONTEXT)
    total = 0.0
    with judging(model):
        for some in starts.split(64):
            given, targets = windows(tokens, some)
            total += nn.functional.cross_entropy(
                model(given).flatten(0, 1), targets.flatten(), reduction="sum"
            ).item()
    return total / (len(starts) * CONTEXT)


def train(case: Case, seed: int, steps: int) -> Run:
    task = Text()
    model = task.model(seed)
    with torch.no_grad(), seeded(seed):
        for p in model.parameters():
            p.mul_(1 + case.nudge * torch.randn_like(p))
    model.to(getattr(torch, case.dtype))
    optimizer = gradstep.AdamW(
        model.named_parameters(), lr=case.lr, state=case.state, rounding=case.rounding, seed=seed
    )
    summary = optimizer.state_summary()
    small = [row for row in summary.rows if "float32" not in row.state]
    run = Run(
        *(case.part, case.name, seed, steps, summary.nbytes),
        small=sum(math.prod(row.shape) for row in small),
        small_bytes=sum(row.nbytes for row in small),
    )
    begin = time.perf_counter()
    torch.manual_seed(seed)  # dropout
    for step, batch in enumerate(task.batches(seed), 1):
        task.loss(model, batch).backward()
        optimizer.watch = step % EVERY == 0
        optimizer.step()
        optimizer.zero_grad()
        if optimizer.watch:
            assert optimizer.last_step is not None
            seen = optimizer.last_step.statistics
            assert seen is not None
            run.unmoved.append((step, round(float(seen.unmoved.sum() / seen.elements.sum()), 5)))
            run.loss.append((step, round(held_out_loss(model), 6)))
        if step == steps:
            break
    run.seconds = round(time.perf_counter() - begin, 1)
    return run


# -- results ------------------------------------------------------------------------------------------------------


def known(file: Path) -> list[Run]:
    """The runs in a file of results."""
    if not file.exists():
        return []
    return [Run(**json.loads(line)) for line in file.read_text(encoding="utf-8").splitlines()]


def measure(file: Path, parts: Sequence[str], seeds: Sequence[int], steps: int) -> None:
    """Make every run that is not in the file yet."""
    done = {run.key for run in known(file)}
    planned = [(case, seed) for seed in seeds for case in CASES if case.part in parts]
    for number, (case, seed) in enumerate(planned, 1):
        if (case.part, case.name, seed, steps) in done:
            continue
        run = train(case, seed, steps)
        with file.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(asdict(run)) + "\n")
        print(
            f"{number}/{len(planned)}  {case.part}, seed {seed}, {case.name}: {run.final:.4f} after {steps:,} steps, "
            f"{run.seconds:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--results", type=Path, default=HERE / "precision.jsonl")
    parser.add_argument("--part", choices=("state", "parameters"), action="append")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--quick", action="store_true", help="one seed, 200 steps, into a file of its own")
    parser.add_argument("--chart", type=Path)
    parser.add_argument("--table", action="store_true", help="measure nothing")
    arguments = parser.parse_args()
    measure(arguments.results, arguments.part or ("state", "parameters"), SEEDS, arguments.steps)

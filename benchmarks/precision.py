"""Measure the effect of fewer bits for state or parameters on the loss: train the lab's `text` task in every precision.

There are two comparisons, each with float32 at the same seed (the same start, batches and dropout):

- state: float32 parameters at the task's own learning rate, their state in float32, bfloat16 or 8 bits;
- parameters: a bfloat16 model at a learning rate of 1e-4, its parameters rounded in each way, state in float32.

"float32, nudged" starts from weights that differ by a part in 10⁶. Its difference at the end is chance; a smaller
difference of another run means nothing. Each run appends one line of JSON to the results; a run that is there already
is not made again.

    python benchmarks/precision.py [--quick] [--part state] [--table]
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
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

import gradstep
from gradstep.lab.task import evaluation_mode, isolate_random
from gradstep.lab.tasks.text import CONTEXT, Text, corpus, windows

HERE = Path(__file__).parent / "results"
SEEDS = (1, 2, 3)
MORE_SEEDS = (1, 2, 3, 4, 5, 6)
"""Those of comparisons that are to show a part in a thousand."""
TITLES = {"state": "State of float32 parameters, lr 1e-3", "parameters": "bfloat16 parameters, lr 1e-4"}
BARS = {
    ("state", "8bit"): 0.005,
    ("state", "4bit"): 0.005,
    ("parameters", "stochastic"): 0.01,
    ("parameters", "24bit"): 0.002,
    ("parameters", "kahan"): 0.01,
    ("parameters", "master"): 0.01,
}
PARAMETERS = 279_168
STEPS = 1_000
EVERY = 250
"""Steps between two evaluations on the held-out text."""


@dataclass(frozen=True)
class Case:
    """A training, and how its parameters and state are stored."""

    part: str
    name: str
    lr: float
    dtype: str = "float32"
    state: Any = "float32"
    rounding: Any = "nearest"
    nudge: float = 0.0
    seeds: tuple[int, ...] = SEEDS


CASES = (
    Case("state", "float32", 1e-3),
    Case("state", "float32, nudged", 1e-3, nudge=1e-6, seeds=SEEDS[:1]),  # one suffices
    Case("state", "bfloat16", 1e-3, state="bfloat16"),
    Case("state", "8bit", 1e-3, state="8bit"),
    Case("state", "4bit", 1e-3, state="4bit"),
    Case("parameters", "float32", 1e-4, seeds=MORE_SEEDS),
    Case("parameters", "nearest", 1e-4, "bfloat16"),
    Case("parameters", "stochastic", 1e-4, "bfloat16", rounding="stochastic"),
    Case("parameters", "24bit", 1e-4, "bfloat16", rounding="24bit", seeds=MORE_SEEDS),
    Case("parameters", "kahan", 1e-4, "bfloat16", rounding="kahan"),
    Case("parameters", "master", 1e-4, "bfloat16", rounding="master"),
    Case("parameters", "stochastic + 8bit", 1e-4, "bfloat16", "8bit", "stochastic"),
)


@dataclass
class Run:
    """The results of one training."""

    part: str
    name: str
    seed: int
    steps: int
    state_bytes: int
    """Bytes of the state of all parameters, from ``state_summary()``."""
    small: int
    """Number of elements whose state is not in float32."""
    small_bytes: int
    """Bytes of their state."""
    loss: list[tuple[int, float]] = field(default_factory=list)
    """(step, mean cross-entropy over all of the held-out text, in nats a byte), computed in float32."""
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
    """Return the loss over every window of the held-out text, in float32 with the weights as stored."""
    model = copy.deepcopy(model).float()
    _, tokens = corpus()
    starts = torch.arange(0, len(tokens) - CONTEXT - 1, CONTEXT)
    total = 0.0
    with evaluation_mode(model):
        for some in starts.split(64):
            inputs, targets = windows(tokens, some)
            total += nn.functional.cross_entropy(model(inputs).flatten(0, 1), targets.flatten(), reduction="sum").item()
    return total / (len(starts) * CONTEXT)


def train(case: Case, seed: int, steps: int) -> Run:
    task = Text()
    model = task.model(seed)
    with torch.no_grad(), isolate_random(seed):
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
        optimizer.watch = "parameters" if step % EVERY == 0 else None
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


def read_runs(file: Path) -> list[Run]:
    """Return the runs in a file of results."""
    if not file.exists():
        return []
    return [Run(**json.loads(line)) for line in file.read_text(encoding="utf-8").splitlines()]


def measure(file: Path, parts: Sequence[str], names: Sequence[str], seeds: Sequence[int], steps: int) -> None:
    """Make every run that is not in the file yet; only of cases with these names, if there are any."""
    done = {run.key for run in read_runs(file)}
    planned = [
        (case, seed)
        for seed in seeds
        for case in CASES
        if case.part in parts and (case.name in names or not names) and seed in case.seeds
    ]
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


def losses(runs: Sequence[Run], part: str) -> dict[str, dict[int, float]]:
    """Return the final loss, by name of the case and seed, in the order of :data:`CASES`."""
    return {
        case.name: {run.seed: run.final for run in runs if (run.part, run.name) == (part, case.name)}
        for case in CASES
        if case.part == part
    }


def relative_loss(by_case: dict[str, dict[int, float]], name: str) -> float:
    """Return the mean final loss over float32's, over the seeds that both have."""
    plain, other = by_case["float32"], by_case[name]
    shared = plain.keys() & other.keys()
    return sum(other[s] for s in shared) / sum(plain[s] for s in shared)


def table(runs: Sequence[Run]) -> str:
    """Return all results as Markdown."""
    lines = []
    for part in ("state", "parameters"):
        by_case = losses(runs, part)
        seeds = sorted(by_case["float32"])
        if not seeds:
            continue
        lines += [
            "",
            f"## {TITLES[part]}",
            "",
            "| stored as | " + " | ".join(f"seed {s}" for s in seeds) + " | mean against float32 | worst | bar | "
            "state, bytes a parameter | unmoved |",
            "|---|" + "---:|" * (len(seeds) + 5),
        ]
        for name, by_seed in by_case.items():
            if not by_seed:
                continue
            some = [run for run in runs if (run.part, run.name) == (part, name)]
            one, share = some[0], relative_loss(by_case, name) - 1
            worst = max(by_seed[s] / by_case["float32"][s] - 1 for s in by_seed if s in by_case["float32"])
            each = one.small_bytes / one.small if one.small else one.state_bytes / PARAMETERS
            unmoved = statistics.mean(run.unmoved[-1][1] for run in some)
            bar = BARS.get((part, name))
            lines.append(
                f"| {name} | "
                + " | ".join(f"{by_seed[s]:.4f}" if s in by_seed else "–" for s in seeds)
                + f" | {share:+.2%} | {worst:+.2%} | {_bar(bar, share)} | {each:.2f} | {unmoved:.1%} |"
            )
    return "\n".join(lines[1:])


def page(runs: Sequence[Run]) -> str:
    """Return the page of results, with explanations."""
    model = Text()
    return f"""# What fewer bits cost in loss

`python benchmarks/precision.py` made this page and [precision.jsonl](precision.jsonl), which has every run;
`--quick` makes one short seed of it in some minutes and keeps nothing. torch {torch.__version__.partition("+")[0]},
on the CPU, one thread.

{model.description}

Here the loss is over all of the held-out text, in nats a byte, after {STEPS:,} steps of AdamW at a constant learning
rate, judged in float32 whatever was trained. Runs of one seed share start, batches and dropout. In the second
comparison the whole model is bfloat16, activations and gradients too; "float32" is a float32 model. Everybody starts
from the same untrained weights.

{table(runs)}

- **mean against float32**: of the losses of all seeds that both have; **worst**: of the seed that loses most.
- **float32, nudged** starts from weights that differ by a part in 10⁶, once: that much is chance.
- **bytes a parameter**: of those whose state is not kept in float32 (their count of steps included), else of all. The
  two embeddings of this model do not say by their names that they are, so 8 bits are tried on them too.
- **unmoved**: the share of elements with a gradient that the last step left where they were, what 24bit, kahan and
  master keep beside the bfloat16 number included; of what is rounded at random, the expected value counts.

"""


def _bar(bar: float | None, share: float) -> str:
    if bar is None:
        return ""
    return f"within {bar:.1%}: {'met' if abs(share) <= bar else '**missed**'}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--part", choices=tuple(TITLES), action="append", help="one of the two comparisons")
    parser.add_argument("--name", action="append", default=[], help="one of the cases")
    parser.add_argument("--quick", action="store_true", help="one seed and few steps, kept nowhere")
    parser.add_argument("--table", action="store_true", help="only write the page again")
    arguments = parser.parse_args()
    wanted = arguments.part or tuple(TITLES)
    if arguments.quick:
        with TemporaryDirectory() as folder:
            file = Path(folder) / "precision.jsonl"
            measure(file, wanted, arguments.name, SEEDS[:1], EVERY)
            print(table(read_runs(file)))
    else:
        if not arguments.table:
            measure(HERE / "precision.jsonl", wanted, arguments.name, MORE_SEEDS, STEPS)
        runs = read_runs(HERE / "precision.jsonl")
        (HERE / "precision.md").write_text(page(runs), encoding="utf-8")
        print(table(runs))

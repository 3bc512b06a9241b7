"""Compare Adam with L2, AdamW, Adam and SGD by the error on images that they were not trained on.

A small network learns handwritten digits, once with the true labels and once with a fifth of the training labels
replaced by wrong ones. Each optimizer's rate and decay are chosen from a grid, by the error on validation images at two
seeds, and tested with five others. The networks of all seeds are trained together, stacked along the first axis of
every tensor: these optimizers update each element by itself, so no network sees another.

    python benchmarks/generalization.py      runs what results/generalization.jsonl lacks, and writes the page again
"""

from __future__ import annotations

import itertools
import json
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import gradstep
from gradstep.lab.machine import describe_machine
from gradstep.lab.tasks.digits import images
from gradstep.schedules import cosine

RESULTS = Path(__file__).parent / "results"
TRAIN, EPOCHS, BATCH, WIDTH, WRONG = 400, 100, 50, 256, 0.2
SEEDS, TUNING = 7, 2
"""Seeds of each run; settings are chosen by the first two."""

KINDS: dict[str, tuple[Any, dict[str, Any], tuple[float, ...], tuple[float, ...]]] = {
    "Adam without decay": (gradstep.Adam, {}, (3e-4, 1e-3, 3e-3), (0.0,)),
    "Adam with L2": (gradstep.Adam, {}, (3e-4, 1e-3, 3e-3), (1e-3, 3e-3, 1e-2, 3e-2)),
    "AdamW": (gradstep.AdamW, {}, (3e-4, 1e-3, 3e-3), (0.3, 1.0, 3.0, 10.0)),
    "SGD without decay": (gradstep.SGD, {"momentum": 0.9}, (0.03, 0.1), (0.0,)),
    "SGD with L2": (gradstep.SGD, {"momentum": 0.9}, (0.03, 0.1), (3e-3, 1e-2, 3e-2, 1e-1)),
}
"""Class, settings, rates and decays of each."""


def labels(true: Tensor, noise: float) -> Tensor:
    """Return the training labels of every seed, a share of them wrong."""
    drawn = []
    for seed in range(SEEDS):
        random = torch.Generator().manual_seed(seed)
        wrong = torch.randperm(TRAIN, generator=random)[: round(noise * TRAIN)]
        mine = true.clone()
        mine[wrong] = (mine[wrong] + torch.randint(1, 10, (len(wrong),), generator=random)) % 10
        drawn.append(mine)
    return torch.stack(drawn)


def network() -> list[Tensor]:
    """Return weights and biases of two layers for every seed."""
    layers = []
    for inputs, outputs in ((64, WIDTH), (WIDTH, 10)):
        drawn = [torch.rand(inputs, outputs, generator=torch.Generator().manual_seed(s)) for s in range(SEEDS)]
        layers.append(((2 * torch.stack(drawn) - 1) / inputs**0.5).requires_grad_())
        layers.append(torch.zeros(SEEDS, 1, outputs, requires_grad=True))
    return layers


def logits(weights: list[Tensor], x: Tensor) -> Tensor:
    """Return the outputs of every seed's network, of shape (seeds, images, 10)."""
    return torch.relu(x @ weights[0] + weights[1]) @ weights[2] + weights[3]


def loss(weights: list[Tensor], x: Tensor, y: Tensor) -> Tensor:
    """Return the sum over seeds of the mean loss."""
    return F.cross_entropy(logits(weights, x).flatten(0, 1), y.flatten(), reduction="sum") / y.shape[1]


def train(name: str, lr: float, decay: float, noise: float) -> dict[str, list[float]]:
    """Return the errors of every seed, the norm of its weights and the sharpness of the training loss."""
    x, y, *test = images()
    x = x.flatten(1)
    kind, settings, *_ = KINDS[name]
    own, weights = labels(y[:TRAIN], noise), network()
    optimizer = kind(weights, lr=lr, weight_decay=decay, **settings)
    schedule = gradstep.Scheduler(optimizer, lr=cosine(lr, updates=EPOCHS * TRAIN // BATCH))
    random = [torch.Generator().manual_seed(seed) for seed in range(SEEDS)]
    for _ in range(EPOCHS):
        for chosen in torch.stack([torch.randperm(TRAIN, generator=r) for r in random]).split(BATCH, dim=1):
            optimizer.zero_grad()
            loss(weights, x[chosen], own.gather(1, chosen)).backward()
            optimizer.step()
            schedule.step()

    def error(x: Tensor, y: Tensor) -> list[float]:
        with torch.no_grad():
            return list((logits(weights, x).argmax(-1) != y).float().mean(1).tolist())

    return {
        "train": error(x[:TRAIN], own),
        "validation": error(x[TRAIN:], y[TRAIN:]),
        "test": error(test[0].flatten(1), test[1]),
        "norm": sum(w.detach().square().sum((1, 2)) for w in weights).sqrt().tolist(),  # type: ignore[union-attr]
        "sharpness": sharpness(weights, x[:TRAIN], own),
    }


def sharpness(weights: list[Tensor], x: Tensor, y: Tensor) -> list[float]:
    """Return the largest eigenvalue of each seed's Hessian over all its weights, by power iteration."""
    slopes = torch.autograd.grad(loss(weights, x, y), weights, create_graph=True)
    random = torch.Generator().manual_seed(0)
    direction = [torch.randn(w.shape, generator=random) for w in weights]
    value = torch.zeros(SEEDS)
    for _ in range(30):
        length = torch.stack([d.square().sum((1, 2)) for d in direction]).sum(0).sqrt()
        direction = [d / length[:, None, None] for d in direction]
        product = torch.stack([(s * d).sum() for s, d in zip(slopes, direction)]).sum()
        curved = torch.autograd.grad(product, weights, retain_graph=True)
        value = torch.stack([(c * d).sum((1, 2)) for c, d in zip(curved, direction)]).sum(0)
        direction = list(curved)
    return list(value.tolist())


class Record:
    """The runs that were made, one line of a file for each."""

    def __init__(self, path: Path) -> None:
        self.path = path
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        self.runs = {tuple(run["run"]): run["found"] for run in map(json.loads, lines)}

    def __call__(self, *run: Any) -> dict[str, list[float]]:
        if run not in self.runs:
            found = train(*run)
            self.runs[run] = {key: [float(f"{value:.4g}") for value in values] for key, values in found.items()}
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"run": run, "found": self.runs[run]}) + "\n")
        return self.runs[run]


def choose(find: Record, name: str, noise: float, rate: float | None) -> tuple[float, float]:
    """Return the rate and the decay with the lowest validation error; a rate that is given is taken."""
    _, _, rates, decays = KINDS[name]
    rates = rates if rate is None else (rate,)
    errors = {
        (lr, decay): statistics.mean(find(name, lr, decay, noise)["validation"][:TUNING])
        for lr, decay in itertools.product(rates, decays)
    }
    return min(errors, key=lambda pair: errors[pair])


def rows(find: Record, noise: float, rate: float | None = None) -> Iterator[str]:
    """Yield the rows of a table; at a given rate, those of the optimizers that have it in their grid."""
    for name in (name for name, kind in KINDS.items() if rate in (None, *kind[2])):
        lr, decay = choose(find, name, noise, rate)
        found = find(name, lr, decay, noise)
        cells = [name, f"{lr:g}", f"{decay:g}"]
        for key, factor in (("test", 100), ("train", 100), ("sharpness", 1), ("norm", 1)):
            values = [factor * value for value in found[key][TUNING:]]
            cells.append(f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}")
        yield f"| {' | '.join(cells)} |"


def page(find: Record) -> Iterator[str]:
    """Yield the lines of the page of results."""
    yield "# Error on images that were held out"
    yield ""
    yield "`python benchmarks/generalization.py` made this page and [generalization.jsonl](generalization.jsonl), which"
    yield f"has every run ({describe_machine()['processor']}, torch {torch.__version__}, one thread)."
    yield ""
    yield f"{TRAIN} of scikit-learn's 8×8 digits to train on, a network of {WIDTH} hidden units, {EPOCHS} epochs of"
    yield f"batches of {BATCH}, the rate falling to 0 by a cosine. Each figure is mean ± standard deviation of"
    yield f"{SEEDS - TUNING} seeds. Rate and decay have the lowest error on 1,000 validation images at {TUNING} other"
    yield "seeds, of the grid in the script; 397 images are for the test."
    yield "**sharpness** is the largest eigenvalue of the training loss's Hessian, **norm** that of all weights."
    tables = ((0.0, None, "True labels"), (WRONG, None, f"{WRONG:.0%} of the training labels wrong"))
    for noise, rate, title in (*tables, (WRONG, 3e-3, "The same, at a rate of 0.003")):
        yield f"\n## {title}\n"
        yield "| optimizer | rate | decay | test error, % | training error, % | sharpness | norm |"
        yield "|---|---:|---:|---:|---:|---:|---:|"
        yield from rows(find, noise, rate)


if __name__ == "__main__":
    torch.set_num_threads(1)
    find = Record(RESULTS / "generalization.jsonl")
    (RESULTS / "generalization.md").write_text("\n".join(page(find)) + "\n", encoding="utf-8")

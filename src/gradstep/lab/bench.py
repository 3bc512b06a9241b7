"""How long a step takes: gradstep's, torch's, and what this machine's memory allows.

All rivals of a case run in one process, turn by turn, each repetition in another order; what is reported is
each one's median and the ratios of medians.
"""

from __future__ import annotations

import gc
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from math import prod
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from gradstep.lab.bench_busy import Neighbours
from gradstep.lab.bench_memory import traffic
from gradstep.lab.machine import describe
from gradstep.optimizers import OPTIMIZERS
from gradstep.rules import RULES

OURS = "gradstep"
DEFAULT = "torch default"
FOREACH = "torch foreach"
FUSED = "torch fused"
MEMORY = "memory"

REPEAT = 15
QUICK_REPEAT = 3
MAX_NORM = 1.0

COMPARED = {name.lower(): name for name, rule in RULES.items() if rule.elementwise and name in vars(torch.optim)}
"""The elementwise rules that torch has too, by their names in lower case."""

Step = Callable[[], object]
Build = Callable[[list[Tensor]], Step]
"""Makes one rival's step over parameters that have their gradients."""

Tick = Callable[[str], None]
"""Told the name of the case after each of its repetitions."""


@final
@dataclass(frozen=True)
class Work:
    """What is stepped: float32 tensors of one shape. Short steps are repeated ``more`` times as often."""

    title: str
    tensors: int
    shape: tuple[int, ...]
    more: int = 1

    @property
    def parameters(self) -> int:
        """Elements of all tensors."""
        return self.tensors * prod(self.shape)

    def make(self) -> list[Tensor]:
        """The parameters, each with a gradient, both random."""
        torch.manual_seed(0)
        made = [
            torch.randn(self.shape, dtype=torch.float32, device="cpu", requires_grad=True) for _ in range(self.tensors)
        ]
        for p in made:
            p.grad = torch.randn(self.shape, dtype=torch.float32, device="cpu")
        return made


LARGE = Work("one tensor of 25 M", 1, (25_000_000,))
MANY = Work("2,000 tensors of 64×64", 2_000, (64, 64))
SMALL = Work("1,000 tensors of 64", 1_000, (64,), more=2)
WORKS = (LARGE, MANY, SMALL)


@final
@dataclass(frozen=True)
class Case:
    """One row to measure: rivals on the same work."""

    title: str
    work: Work
    rivals: Mapping[str, Build]


@final
@dataclass(frozen=True)
class Row:
    """What was measured of one case: each rival's seconds, repetition by repetition."""

    title: str
    tensors: int
    parameters: int
    seconds: Mapping[str, Sequence[float]]

    def median(self, rival: str) -> float | None:
        """A rival's median step in seconds; None if it did not take part."""
        return statistics.median(self.seconds[rival]) if rival in self.seconds else None

    def ratio(self, rival: str) -> float | None:
        """How many times as long as gradstep's step the rival's takes, by their medians."""
        ours, theirs = self.median(OURS), self.median(rival)
        return theirs / ours if ours and theirs else None


@final
@dataclass(frozen=True)
class Results:
    """A whole run; ``others`` is the share of the processors that other programs took, None if not known."""

    machine: Mapping[str, str]
    date: str
    others: float | None
    rows: Sequence[Row]

    def save(self, file: Path) -> None:
        """Write as JSON."""
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    @staticmethod
    def load_from(file: Path) -> Results:
        """Read what :meth:`save` wrote."""
        known = json.loads(file.read_text(encoding="utf-8"))
        return Results(**{**known, "rows": [Row(**row) for row in known["rows"]]})


def _ours(name: str, **settings: Any) -> Build:
    return lambda params: OPTIMIZERS[name](params, **settings).step


def _theirs(name: str, **settings: Any) -> Build:
    return lambda params: getattr(torch.optim, COMPARED[name])(params, **settings).step


def _memory(params: list[Tensor]) -> Step:
    length = sum(p.numel() for p in params)
    p, g, m, v = (torch.zeros(length, dtype=torch.float32, device="cpu") for _ in range(4))
    return traffic(p, g, m, v)


def _our_clip(params: list[Tensor]) -> Step:
    optimizer = OPTIMIZERS["adamw"](params)
    return lambda: optimizer.step(max_grad_norm=MAX_NORM)


def _their_clip(params: list[Tensor]) -> Step:
    optimizer = torch.optim.AdamW(params, fused=True)

    def step() -> None:
        torch.nn.utils.clip_grad_norm_(params, MAX_NORM)
        optimizer.step()

    return step


def rule_names(words: str) -> list[str]:
    """The rules that ``--rules`` names, in lower case: "all", or names separated by commas.

    Raises:
        ValueError: a name that torch does not have, or whose rule is not elementwise.

    >>> rule_names("sgd,RAdam")
    ['sgd', 'radam']
    """
    if words.strip().lower() == "all":
        return [name for name in COMPARED if name != "adamw"]
    names = [name.strip().lower() for name in words.split(",") if name.strip()]
    for name in names:
        if name not in COMPARED:
            raise ValueError(
                f"torch has no elementwise rule {name!r} to compare with (choose all, or from {', '.join(COMPARED)})"
            )
    return names


def cases(rules: Sequence[str] = (), works: Sequence[Work] = WORKS) -> list[Case]:
    """AdamW on every work, with clipping on all but the last, and each of ``rules`` on the first."""
    plain: dict[str, Build] = {
        OURS: _ours("adamw"),
        FUSED: _theirs("adamw", fused=True),
        FOREACH: _theirs("adamw", foreach=True),
        DEFAULT: _theirs("adamw", foreach=False),
    }
    clip: dict[str, Build] = {OURS: _our_clip, FUSED: _their_clip}
    result = []
    for work in works:
        memory: dict[str, Build] = {MEMORY: _memory} if work is works[0] else {}
        result.append(Case(f"AdamW, {work.title}", work, {**memory, **plain}))
    result += [Case(f"AdamW and clipping, {work.title}", work, clip) for work in works[:-1]]
    for name in rules:
        for settings in ({}, {"momentum": 0.9}) if name == "sgd" else ({},):
            words = "".join(f", {key} {value}" for key, value in settings.items())
            rivals = {OURS: _ours(name, **settings), DEFAULT: _theirs(name, foreach=False, **settings)}
            result.append(Case(f"{COMPARED[name]}{words}, {works[0].title}", works[0], rivals))
    return result


def _settle() -> None:
    """Have the C library tidy up what the rival before has freed, which it else does in the next one's time.

    It puts small pieces together when the next larger one is asked for: after a thousand small tensors that takes
    longer than the step of a fast optimizer, and in turns it would always be the same one that pays.
    """
    bytearray(1 << 16)


def repetitions(case: Case, repeat: int) -> int:
    """How often each rival of a case is measured."""
    return repeat * case.work.more


def measure(case: Case, repeat: int, tick: Tick = lambda _: None) -> Row:
    """Time the rivals of one case in turns; parameters and gradients are shared, state is each one's own."""
    params = case.work.make()
    steps = {name: build(params) for name, build in case.rivals.items()}
    for step in steps.values():
        step()  # states are made, kernels compiled
        step()
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    order = list(steps)
    gc.collect()
    gc.disable()
    try:
        for _ in range(repetitions(case, repeat)):
            for name in order:
                _settle()
                begin = time.perf_counter()
                steps[name]()
                seconds[name].append(round(time.perf_counter() - begin, 7))
            order.append(order.pop(0))
            tick(case.title)
    finally:
        gc.enable()
    return Row(case.title, case.work.tensors, case.work.parameters, seconds)


def run(chosen: Sequence[Case], repeat: int, tick: Tick = lambda _: None) -> Results:
    """Measure all cases, one after the other."""
    neighbours = Neighbours()
    rows = [measure(case, repeat, tick) for case in chosen]
    return Results(describe(), date.today().isoformat(), neighbours.share(), rows)

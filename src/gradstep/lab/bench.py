"""Time gradstep's step, torch's step and plain loops over memory, on the shapes of real models.

All rivals of a case run in one process and take turns, in an order that is drawn anew for each repetition. The report
has the median of each rival, the ratios of medians, and the quartiles of the ratios of the single repetitions.
"""

from __future__ import annotations

import gc
import json
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from gradstep.engines.fused.launcher import access_report, measuring
from gradstep.lab.bench_memory import LOOPS, VECTOR_LANES, Loop, make_loop
from gradstep.lab.bench_models import TensorShapes, count_parameters, gpt2, gpt2_blocks, resnet50, vit_b_16
from gradstep.lab.machine import OtherPrograms, describe_machine
from gradstep.optimizers import OPTIMIZERS
from gradstep.rules import RULES

OURS = "gradstep"
OURS_8BIT = "gradstep, 8-bit state"
OURS_NAMED = "gradstep, 8-bit state but of embeddings"
GRADSTEP_RIVALS = (OURS, OURS_8BIT, OURS_NAMED)
TORCH_DEFAULT = "torch default"
TORCH_FOREACH = "torch foreach"
TORCH_FUSED = "torch fused"
MEMORY = tuple(f"memory, {loop}" for loop in LOOPS)

REPEAT = 15
QUICK_REPEAT = 3
QUICK_PARAMETERS = 30_000_000
"""A quick run leaves out larger works."""
MAX_NORM = 1.0
MAX_SETTLING_STEPS = 64
"""More steps than a kernel takes to try every access pattern."""

COMPARED = {name.lower(): name for name, rule in RULES.items() if rule.sees == "elements" and name in vars(torch.optim)}
"""The elementwise rules that torch has too, by their names in lower case."""

StepFunction = Callable[[], object]
Build = Callable[[list[Tensor]], StepFunction]
"""Makes the step of one rival for parameters that have gradients."""

Tick = Callable[[str], None]
"""Called after each repetition with the title of the case."""


@final
@dataclass(frozen=True)
class Workload:
    """The float32 tensors that a step updates, by their shapes. ``more`` multiplies the repetitions of short steps."""

    title: str
    shapes: TensorShapes
    more: int = 1

    @property
    def parameters(self) -> int:
        """Number of elements in all tensors."""
        return count_parameters(self.shapes)

    def make(self) -> list[Tensor]:
        """Make the parameters and their gradients from random numbers."""
        torch.manual_seed(0)
        shapes = self.shapes.values()
        parameters = [torch.randn(shape, dtype=torch.float32, device="cpu", requires_grad=True) for shape in shapes]
        for p in parameters:
            p.grad = torch.randn_like(p)
        return parameters


def tensors(number: int, *shape: int) -> TensorShapes:
    """Return the shapes of ``number`` tensors of one shape.

    >>> tensors(2, 3, 4)
    {'0': (3, 4), '1': (3, 4)}
    """
    return {str(k): shape for k in range(number)}


GPT2_WORK = Workload("GPT-2 (124 M, 148 tensors)", gpt2())
VIT = Workload("ViT-B/16 (86.6 M, 152 tensors)", vit_b_16())
RESNET = Workload("ResNet-50 (25.6 M, 161 tensors)", resnet50())
BLOCKS = Workload("GPT-2's blocks (85 M, 144 tensors)", gpt2_blocks())
MANY_WORK = Workload("2,000 tensors of 64×64", tensors(2_000, 64, 64))
SMALL_WORK = Workload("1,000 tensors of 64", tensors(1_000, 64), more=2)
LARGE_WORK = Workload("one matrix of 25 M", tensors(1, 25_000, 1_000))
WORKS = (GPT2_WORK, VIT, RESNET, BLOCKS, MANY_WORK, SMALL_WORK, LARGE_WORK)


@final
@dataclass(frozen=True)
class Case:
    """A row of the table to measure: rivals on the same work."""

    title: str
    work: Workload
    rivals: Mapping[str, Build]


@final
@dataclass(frozen=True)
class CaseResult:
    """The measurement of one case: the seconds of each rival in each repetition."""

    title: str
    tensors: int
    parameters: int
    seconds: Mapping[str, Sequence[float]]

    def median(self, rival: str) -> float | None:
        """Return a rival's median step in seconds; None if it did not take part."""
        return statistics.median(self.seconds[rival]) if rival in self.seconds else None

    def ratio(self, rival: str, ours: str = OURS) -> float | None:
        """Return the rival's median step divided by gradstep's."""
        own, theirs = self.median(ours), self.median(rival)
        return theirs / own if own and theirs else None

    def quartiles(self, rival: str, ours: str = OURS) -> tuple[float, float] | None:
        """Return the first and the third quartile of the repetitions' ratios, rival to gradstep."""
        if rival not in self.seconds or ours not in self.seconds:
            return None
        ratios = [a / b for a, b in zip(self.seconds[rival], self.seconds[ours], strict=True)]
        first, _, third = statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
        return first, third

    def memory_share(self) -> float | None:
        """Return gradstep's float32 speed as a share of the fastest memory loop's or torch's fused step's."""
        if not any(loop in self.seconds for loop in MEMORY):
            return None
        ratios = (self.ratio(rival) for rival in (*MEMORY, TORCH_FUSED))
        return min(ratio for ratio in ratios if ratio is not None)


@final
@dataclass(frozen=True)
class BenchResults:
    """The results of a whole run."""

    machine: Mapping[str, str]  # description of the machine, by name
    date: str  # date of the run, ISO 8601
    others: float | None  # share of the processors that other programs took; None where the system does not tell
    rows: Sequence[CaseResult]  # one for each case
    access: Sequence[str]  # the access patterns that gradstep's kernels chose, in words

    def save(self, file: Path) -> None:
        """Write the results to a JSON file."""
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    @staticmethod
    def load_from(file: Path) -> BenchResults:
        """Read what :meth:`save` wrote."""
        fields = json.loads(file.read_text(encoding="utf-8"))
        return BenchResults(**{**fields, "rows": [CaseResult(**row) for row in fields["rows"]]})


def _build_ours(name: str, **settings: Any) -> Build:
    return lambda params: OPTIMIZERS[name](params, **settings).step


def _build_named(work: Workload) -> Build:
    return lambda params: OPTIMIZERS["adamw"](list(zip(work.shapes, params, strict=True)), state="8bit").step


def _build_theirs(name: str, **settings: Any) -> Build:
    """Return a function that makes torch's optimizer of that name and returns its ``step``."""
    return lambda params: getattr(torch.optim, COMPARED[name])(params, **settings).step


def _memory() -> dict[str, Build]:
    """Return the loops over memory; they share four arrays."""
    arrays: list[Tensor] = []

    def build(loop: Loop, params: list[Tensor]) -> StepFunction:
        length = -(-sum(p.numel() for p in params) // VECTOR_LANES) * VECTOR_LANES
        if not arrays:
            arrays.extend(torch.zeros(length, dtype=torch.float32, device="cpu") for _ in range(4))
        p, g, m, v = arrays
        return make_loop(p, g, m, v, loop)

    return {name: partial(build, loop) for name, loop in zip(MEMORY, LOOPS, strict=True)}


def _our_clip(params: list[Tensor]) -> StepFunction:
    """Return an AdamW step of gradstep that clips."""
    optimizer = OPTIMIZERS["adamw"](params)
    return lambda: optimizer.step(max_grad_norm=MAX_NORM)


def _their_clip(params: list[Tensor]) -> StepFunction:
    """Return torch's clipping, then its fused AdamW step."""
    optimizer = torch.optim.AdamW(params, fused=True)

    def step() -> None:
        torch.nn.utils.clip_grad_norm_(params, MAX_NORM)
        optimizer.step()

    return step


def rule_names(words: str) -> list[str]:
    """Return the rules that ``--rules`` names, in lower case: "all", or names separated by commas.

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


def cases(works: Sequence[Workload] = WORKS) -> list[Case]:
    """Return the cases: AdamW on every work; with clipping on the first, the last and 2,000 small matrices.

    8-bit state takes part where most parameters are in large matrices. torch's two slower implementations and the loops
    over memory take part on one or two works.
    """
    result = []
    for work in works:
        rivals: dict[str, Build] = _memory() if work is works[0] else {}
        rivals[OURS] = _build_ours("adamw")
        if work not in (MANY_WORK, SMALL_WORK):
            rivals[OURS_8BIT] = _build_ours("adamw", state="8bit")
        if work is GPT2_WORK:
            rivals[OURS_NAMED] = _build_named(work)
        rivals[TORCH_FUSED] = _build_theirs("adamw", fused=True)
        if work in (RESNET, MANY_WORK):
            rivals[TORCH_FOREACH] = _build_theirs("adamw", foreach=True)
            rivals[TORCH_DEFAULT] = _build_theirs("adamw", foreach=False)
        result.append(Case(f"AdamW, {work.title}", work, rivals))
    clip: dict[str, Build] = {OURS: _our_clip, TORCH_FUSED: _their_clip}
    clipped = [work for work in works if work in (works[0], MANY_WORK, works[-1])]
    return result + [Case(f"AdamW and clipping, {work.title}", work, clip) for work in clipped]


def rule_cases(rules: Sequence[str], work: Workload = LARGE_WORK) -> list[Case]:
    """Return a case for each rule: gradstep against torch's default implementation."""
    result = []
    for name in rules:
        for settings in ({}, {"momentum": 0.9}) if name == "sgd" else ({},):
            words = "".join(f", {key} {value}" for key, value in settings.items())
            rivals = {
                OURS: _build_ours(name, **settings),
                TORCH_DEFAULT: _build_theirs(name, foreach=False, **settings),
            }
            result.append(Case(f"{COMPARED[name]}{words}, {work.title}", work, rivals))
    return result


def settle(step: StepFunction) -> None:
    """Repeat a step until gradstep's kernels have chosen their access patterns, at most ``MAX_SETTLING_STEPS`` times.

    Before that, a step may run with a slower pattern that is only being tried.
    """
    step()  # makes the state and compiles the kernels
    step()
    for _ in range(MAX_SETTLING_STEPS):
        if not measuring():
            break
        step()


def repetitions(case: Case, repeat: int) -> int:
    """Return how often each rival of a case is timed."""
    return repeat * case.work.more


def measure(case: Case, repeat: int, tick: Tick = lambda _: None) -> CaseResult:
    """Time the rivals of one case in turns. They share parameters and gradients; each has its own state."""
    params = case.work.make()
    steps = {name: build(params) for name, build in case.rivals.items()}
    for step in steps.values():
        settle(step)
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    order, shuffle = list(steps), random.Random(0).shuffle
    gc.collect()
    gc.disable()
    try:
        for _ in range(repetitions(case, repeat)):
            shuffle(order)
            for name in order:
                # The C library merges small free pieces of memory when a larger one is requested. After a thousand
                # small tensors that takes longer than a fast step: request one now.
                bytearray(1 << 16)
                begin = time.perf_counter()
                steps[name]()
                seconds[name].append(round(time.perf_counter() - begin, 7))
            tick(case.title)
    finally:
        gc.enable()
    return CaseResult(case.title, len(case.work.shapes), case.work.parameters, seconds)


def run_cases(chosen: Sequence[Case], repeat: int, tick: Tick = lambda _: None) -> BenchResults:
    """Measure all cases, one after the other."""
    others = OtherPrograms()
    rows = [measure(case, repeat, tick) for case in chosen]
    access = [str(selection) for selection in access_report()]
    return BenchResults(describe_machine(), date.today().isoformat(), others.share(), rows, access)

"""Races between optimizers on one task each, and a session of them: results file and report."""

import math
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median
from typing import final

import torch

from gradstep import AveragingOptimizer
from gradstep.lab.contenders import DEFAULT_LINEUP, Contender, make_contender, with_peers
from gradstep.lab.machine import describe_machine
from gradstep.lab.report import write_race_report
from gradstep.lab.results import (
    ContenderEntry,
    CurvePoint,
    RaceHeader,
    Record,
    RunSummary,
    SessionOutcome,
    finite_or_none,
    write_results,
)
from gradstep.lab.specs import parse_specs, write_value
from gradstep.lab.task import Task
from gradstep.lab.tasks import TASKS
from gradstep.lab.tasks.surface import Surface
from gradstep.lab.terminal import Display
from gradstep.spelling import suggest

TURN = 5
"""Largest number of steps of a turn; after its first steps a contender's data are in the cache."""
FINISHED, DIVERGED, INTERRUPTED = "finished", "diverged", "interrupted"


@final
class Lane:
    """One contender's run at one seed."""

    def __init__(self, task: Task, contender: Contender, seed: int, clip: float | None = None) -> None:
        self.contender = contender
        self._clip = clip
        self.status: str | None = None
        self._task = task
        self._seed = seed
        self._model = task.model(seed)
        self._optimizer = contender.optimizer(self._model)
        self._batches = task.batches(seed)
        # Dropout draws from torch's global generator, which all lanes share: each lane keeps its own state of it.
        self._random = torch.Generator().manual_seed(seed).get_state()
        self._steps: list[tuple[float, float]] = []
        self._losses: list[float] = []
        self._last: CurvePoint | None = None

    @property
    def parameters(self) -> int:
        """Number of parameters of the model."""
        return sum(parameter.numel() for parameter in self._model.parameters())

    def turn(self, steps: int) -> None:
        """Take `steps` steps, fewer if the loss stops being finite."""
        torch.set_rng_state(self._random)
        for _ in range(steps):
            loss = self._step(next(self._batches))
            self._losses.append(loss)
            if not math.isfinite(loss):
                self.status = DIVERGED
                break
        self._random = torch.get_rng_state()

    def _step(self, batch: tuple[torch.Tensor, ...]) -> float:
        """Take one whole step and time it; return the training loss before it."""
        begin = time.perf_counter()
        loss = self._task.loss(self._model, batch)
        loss.backward()
        if self._clip is not None:
            torch.nn.utils.clip_grad_norm_(self._model.parameters(), self._clip)
        before = time.perf_counter()
        self._optimizer.step()
        after = time.perf_counter()
        self._optimizer.zero_grad()
        end = time.perf_counter()
        self._steps.append((end - begin, after - before))
        return loss.item()

    def point(self) -> CurvePoint:
        """Evaluate the model on held-out data and return the point."""
        averages = self._optimizer if isinstance(self._optimizer, AveragingOptimizer) else None
        if averages is not None:
            averages.eval()
        evaluation = self._task.evaluate(self._model)
        if averages is not None:
            averages.train()
        if not math.isfinite(evaluation.loss):
            self.status = DIVERGED
        place = evaluation.place
        losses, self._losses = self._losses, []
        self._last = CurvePoint(
            task=self._task.name,
            contender=self.contender.label,
            seed=self._seed,
            step=len(self._steps),
            seconds=sum(whole for whole, _ in self._steps[1:]),
            train_loss=finite_or_none(fmean(losses)) if losses else None,
            loss=finite_or_none(evaluation.loss),
            accuracy=evaluation.accuracy,
            place=place if place and all(map(math.isfinite, place)) else None,
        )
        return self._last

    def summary(self) -> RunSummary:
        """Return the summary of the run so far, with its present status."""
        later = self._steps[1:]
        diverged = self.status == DIVERGED
        return RunSummary(
            task=self._task.name,
            contender=self.contender.label,
            seed=self._seed,
            status=self.status or FINISHED,
            steps=len(self._steps),
            loss=self._last.loss if self._last and not diverged else None,
            accuracy=self._last.accuracy if self._last and not diverged else None,
            first_step_seconds=self._steps[0][0] if self._steps else None,
            step_seconds=median(whole for whole, _ in later) if later else None,
            optimizer_seconds=median(part for _, part in later) if later else None,
            state_bytes=tensor_bytes(list(self._optimizer.state.values())),
            parameters=self.parameters,
        )


@final
@dataclass(frozen=True)
class Race:
    """A race of all contenders on one task, at every seed."""

    # task, contenders: the task, and the contenders, whose labels differ
    task: Task
    contenders: tuple[Contender, ...]
    steps: int  # number of steps of each contender, on every machine the same
    seeds: tuple[int, ...]  # the seeds; at each seed all contenders take turns
    # command, machine: for the header: the command line that runs this race again, and the machine's description
    command: str
    machine: Mapping[str, str]
    clip: float | None = None  # norm to which gradients are clipped before every step; None: no clipping

    def explain_default_rates(self) -> list[str]:
        """Return a sentence for each contender whose learning rate is only its rule's default."""
        return [
            f"{self.task.name}: {one.label} takes its own default learning rate, {one.default_lr:g}: none was asked "
            f"for, and the task has none for it. {one.name}:lr=... gives another."
            for one in self.contenders
            if one.default_lr is not None
        ]

    def run(self, listen: Callable[[Record], None]) -> None:
        """Run the race, and pass each record to `listen`.

        Raises:
            KeyboardInterrupt: after Ctrl-C; the summaries of the runs so far have been passed on before.
        """
        with torch.random.fork_rng(devices=[]):
            for index, seed in enumerate(self.seeds):
                lanes = [Lane(self.task, contender, seed, self.clip) for contender in self.contenders]
                if index == 0:
                    listen(self._header(lanes[0].parameters))
                try:
                    self._run_seed(lanes, listen)
                except KeyboardInterrupt:
                    for lane in lanes:
                        lane.status = lane.status or INTERRUPTED
                    raise
                finally:
                    for lane in lanes:
                        listen(lane.summary())

    def _run_seed(self, lanes: list[Lane], listen: Callable[[Record], None]) -> None:
        for lane in lanes:
            listen(lane.point())
        for number, (done, until) in enumerate(pairwise(self._stops())):
            first = number % len(lanes)
            for lane in lanes[first:] + lanes[:first]:
                if lane.status is None:
                    lane.turn(until - done)
                    if until % self.task.stride == 0 or until == self.steps or lane.status:
                        listen(lane.point())

    def _stops(self) -> list[int]:
        """Return the steps at which a turn begins or ends: every `TURN` steps, and at each evaluation."""
        steps = self.steps
        return sorted({*range(0, steps, TURN), *range(0, steps, self.task.stride), steps})

    def _header(self, parameters: int) -> RaceHeader:
        return RaceHeader(
            task=self.task.name,
            contenders=tuple(
                ContenderEntry(one.label, one.name, {key: write_value(value) for key, value in one.described_settings})
                for one in self.contenders
            ),
            steps=self.steps,
            seeds=self.seeds,
            parameters=parameters,
            command=self.command,
            started=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            machine=self.machine,
            clip=self.clip,
            start=self.task.start if isinstance(self.task, Surface) else None,
        )


def tensor_bytes(value: object) -> int:
    """Return the bytes of all tensors inside a value, through dictionaries, lists and tuples."""
    if isinstance(value, torch.Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, Mapping):
        return sum(map(tensor_bytes, value.values()))
    if isinstance(value, list | tuple):
        return sum(map(tensor_bytes, value))
    return 0


SEEDS = 3
"""Default number of runs of each contender; a single run shows no spread, and so no winner."""


@final
@dataclass(frozen=True)
class SessionPlan:
    """The races of a session, one for each task, and the folder in which the session makes its own folder."""

    races: tuple[Race, ...]
    out: Path


def plan(
    tasks: Sequence[str] = (),
    optimizers: str | None = None,
    *,
    peers: bool = False,
    quick: bool = False,
    steps: int | None = None,
    seeds: int = SEEDS,
    start: str | None = None,
    clip: float | None = None,
    out: Path = Path("runs"),
) -> SessionPlan:
    """Return the plan of a command line; nothing is run or written yet.

    Args:
        tasks: names of tasks; none: all, or with `quick` the tasks that have a quick number of steps.
        optimizers: see `gradstep.lab.specs`; None: the default line-up.
        peers: whether torch's own class of each optimizer races too.
        quick: shorter races: each task's quick number of steps.
        steps: steps of each contender; None: the task's own number.
        seeds: number of seeds, counted from 0.
        start: where paths over a surface begin, as "x,y"; None: each surface's own place.
        clip: norm to which gradients are clipped before every step; None: no clipping.
        out: folder in which the session makes its own folder.

    Raises:
        ValueError, TypeError, NotADirectoryError: an argument is invalid; the message says what is allowed.
    """
    for name in tasks:
        if name not in TASKS:
            raise ValueError(f"Unknown task: {name!r}.{suggest(name, TASKS)} There are {', '.join(TASKS)}.")
    chosen = [TASKS[name] for name in dict.fromkeys(tasks)] or [
        task for task in TASKS.values() if task.quick_steps or not quick
    ]
    if start is not None:
        surfaces = {task: type(task)(_parse_place(start)) for task in chosen if isinstance(task, Surface)}
        if not surfaces:
            names = ", ".join(name for name, task in TASKS.items() if isinstance(task, Surface))
            raise ValueError(f"A start is a place on a surface, and none is raced: name one of {names}")
        chosen = [surfaces.get(task, task) if isinstance(task, Surface) else task for task in chosen]
    specs = DEFAULT_LINEUP if optimizers is None else parse_specs(optimizers)
    line_up = with_peers(specs) if peers else specs
    line_ups = {task: tuple(make_contender(spec, task) for spec in line_up) for task in chosen}
    for contenders in line_ups.values():
        labels = [one.label for one in contenders]
        twice = [label for label in dict.fromkeys(labels) if labels.count(label) > 1]
        if twice:
            raise ValueError(f"Several contenders would be called {twice[0]!r}: rename one, or vary its settings")
    for name, value in (("steps", steps), ("seeds", seeds)):
        if value is not None and value < 1:
            raise ValueError(f"Invalid number of {name}: {value} (at least 1)")
    if clip is not None and not 0 < clip < math.inf:
        raise ValueError(f"Invalid clip: {clip} (a norm above 0)")
    if out.exists() and not out.is_dir():
        raise NotADirectoryError(f"Not a folder: {out} (give a folder, or one that can be made)")
    words = ["gradstep", "race", *(task.name for task in chosen), "--optimizers", ",".join(map(str, line_up))]
    words += ["--quick"] * quick
    words += ["--steps", str(steps)] if steps is not None else []
    words += ["--seeds", str(seeds)] if seeds != SEEDS else []
    words += [f"--start={start}"] if start is not None else []
    words += ["--clip", f"{clip:g}"] if clip is not None else []
    command, machine = shlex.join(words), describe_machine()
    races = (
        Race(
            task=task,
            contenders=contenders,
            steps=steps or (task.quick_steps if quick else 0) or task.steps,
            seeds=tuple(range(seeds)),
            command=command,
            machine=machine,
            clip=clip,
        )
        for task, contenders in line_ups.items()
    )
    return SessionPlan(tuple(races), out)


def _parse_place(text: str) -> tuple[float, float]:
    """Return the two numbers of "x,y"."""
    try:
        x, y = (float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"Invalid start: {text!r} (write two numbers, x,y, as in --start=-1,1)") from None
    return x, y


def run(plan: SessionPlan, display: Display) -> SessionOutcome:
    """Race every task of the plan, then write the report; after Ctrl-C, the report has the records so far."""
    folder = _make_folder(plan)
    interrupted = False
    recorded = False
    with write_results(folder) as write:

        def listen(record: Record) -> None:
            nonlocal recorded
            write(record)
            recorded = True
            display(record)

        try:
            with display.open():
                for race in plan.races:
                    race.run(listen)
        except KeyboardInterrupt:
            interrupted = True
    return SessionOutcome(folder, write_race_report(folder) if recorded else None, interrupted)


def _make_folder(plan: SessionPlan) -> Path:
    """Make a new folder for this session, named after its task and the time."""
    subject = plan.races[0].task.name if len(plan.races) == 1 else "race"
    stem = f"{subject}-{time.strftime('%Y%m%d-%H%M%S')}"
    for suffix in ("", *(f"-{number}" for number in range(2, 100))):
        folder = plan.out / (stem + suffix)
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return folder
    raise FileExistsError(f"Too many races at once under {plan.out}")

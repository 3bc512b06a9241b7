"""Run a race: each contender trains the same model from the same start, in turns.

Three rules make it fair. All contenders at a seed start from the same weights, see the same batches in the same
order, and draw the same random numbers. Contenders take turns of a few steps, in an order that rotates, so that
a machine that slows down slows all of them. Only the training is timed, not evaluation, recording and drawing.
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, median
from typing import final

import torch

from gradstep.lab.contenders import Contender
from gradstep.lab.results import Entry, Header, Point, Record, Summary, finite_or_none
from gradstep.lab.specs import write_value
from gradstep.lab.task import Task
from gradstep.lab.tasks.surface import Surface

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
        self._optimizer = contender.optimizer(self._model.parameters())
        self._batches = task.batches(seed)
        # Dropout draws from torch's global generator, which all lanes share: each lane keeps its own state of it.
        self._random = torch.Generator().manual_seed(seed).get_state()
        self._steps: list[tuple[float, float]] = []
        self._losses: list[float] = []
        self._last: Point | None = None

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

    def point(self) -> Point:
        """Evaluate the model on held-out data and return the point."""
        evaluation = self._task.evaluate(self._model)
        if not math.isfinite(evaluation.loss):
            self.status = DIVERGED
        place = evaluation.place
        losses, self._losses = self._losses, []
        self._last = Point(
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

    def summary(self) -> Summary:
        """Return the summary of the run so far, with its present status."""
        later = self._steps[1:]
        diverged = self.status == DIVERGED
        return Summary(
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
    """A race of all contenders on one task, at every seed.

    Args:
        task: the task.
        contenders: the contenders; their labels differ.
        steps: number of steps of each contender, on every machine the same.
        seeds: the seeds; at each seed all contenders take turns.
        command: the command line that runs this race again, for the header.
        machine: description of the machine, for the header.
        clip: norm to which gradients are clipped before every step; None: no clipping.
    """

    task: Task
    contenders: tuple[Contender, ...]
    steps: int
    seeds: tuple[int, ...]
    command: str
    machine: Mapping[str, str]
    clip: float | None = None

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

    def _header(self, parameters: int) -> Header:
        return Header(
            task=self.task.name,
            contenders=tuple(
                Entry(one.label, one.name, {key: write_value(value) for key, value in one.settings})
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

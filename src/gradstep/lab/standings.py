"""Summarise the records of a race: one standing and one curve for each contender, over all its seeds."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import final

from gradstep.lab.contenders import base_name
from gradstep.lab.results import Entry, Point, Results, Summary, read_results
from gradstep.lab.tasks import TASKS
from gradstep.report.words import number, plus_minus, seconds


@final
@dataclass(frozen=True)
class Curve:
    """A contender's value over steps: at each recorded step the mean, least and greatest over the seeds."""

    steps: list[int]
    seconds: list[float]
    mean: list[float]
    low: list[float]
    high: list[float]


@final
@dataclass(frozen=True)
class Standing:
    """The result of one contender over all its seeds. Times in seconds, memory in bytes.

    Args:
        loss, accuracy: mean of the last evaluations; None if any seed diverged or none was evaluated.
        spread: greatest minus least loss over seeds.
        losses: the last loss of each seed that finished.
        step: median whole step; optimizer: median of the optimizer's part.
        step_range, optimizer_range: least and greatest of the seeds' medians; None for fewer than two.
        first_step: the slowest first step; it compiled, if any did.
        status: "finished", or what happened instead and at which step.
    """

    entry: Entry
    status: str
    diverged: bool
    steps: int
    loss: float | None
    spread: float
    losses: Mapping[int, float]
    accuracy: float | None
    first_step: float | None
    step: float | None
    step_range: tuple[float, float] | None
    optimizer: float | None
    optimizer_range: tuple[float, float] | None
    state_bytes: int
    parameters: int

    @property
    def share(self) -> float | None:
        """The optimizer's share of a step, in [0, 1]."""
        return self.optimizer / self.step if self.optimizer is not None and self.step else None

    @property
    def bytes_per_parameter(self) -> float:
        """Bytes of state for each parameter of the model."""
        return self.state_bytes / self.parameters

    @property
    def loss_text(self) -> str:
        """The loss, with half the distance between the best and the worst seed."""
        if self.diverged:
            return "diverged"
        if self.loss is None or len(self.losses) < 2:
            return number(self.loss)
        return plus_minus(self.loss, self.spread / 2)

    @property
    def step_text(self) -> str:
        """The time of a step, with half the distance between the fastest and the slowest seed."""
        return time_text(self.step, self.step_range)

    @property
    def is_peer(self) -> bool:
        """Whether this is torch's own class."""
        return base_name(self.entry.name) != self.entry.name


def time_text(value: float | None, ends: tuple[float, float] | None) -> str:
    """Return a time, with half the width of its spread if there is one."""
    return seconds(value, (ends[1] - ends[0]) / 2 if ends else None)


def races_in(folder: Path) -> list[Results]:
    """Return the races recorded in `folder`, in the order of `TASKS`.

    Raises:
        FileNotFoundError: the folder holds no results.
        ValueError: a line is not a record of a race, or its task does not exist.
    """
    races = read_results(folder)
    order = list(TASKS)
    for race in races:
        if race.header.task not in order:
            raise ValueError(f"Unknown task in {folder}: {race.header.task!r} (there are {', '.join(order)})")
    return sorted(races, key=lambda race: order.index(race.header.task))


def standings(results: Results) -> list[Standing]:
    """Return the standing of every contender that has a summary, the lowest loss first, those that diverged last."""
    table = []
    for entry in results.header.contenders:
        runs = [summary for summary in results.summaries if summary.contender == entry.label]
        if runs:
            table.append(_standing(entry, runs))
    return sorted(table, key=lambda one: (one.loss is None, one.loss))


def _standing(entry: Entry, runs: list[Summary]) -> Standing:
    losses = _all_or_none([run.loss for run in runs])
    accuracies = _all_or_none([run.accuracy for run in runs])
    unfinished = [f"{run.status} at step {run.steps:,}" for run in runs if run.status != "finished"]
    return Standing(
        entry=entry,
        status=", ".join(dict.fromkeys(unfinished)) or "finished",
        diverged=any(run.status == "diverged" for run in runs),
        steps=max(run.steps for run in runs),
        loss=fmean(losses) if losses else None,
        spread=max(losses) - min(losses) if losses else 0.0,
        losses={run.seed: run.loss for run in runs if run.status == "finished" and run.loss is not None},
        accuracy=fmean(accuracies) if accuracies else None,
        first_step=max((run.first_step_seconds for run in runs if run.first_step_seconds is not None), default=None),
        step=_median(run.step_seconds for run in runs),
        step_range=_range(run.step_seconds for run in runs),
        optimizer=_median(run.optimizer_seconds for run in runs),
        optimizer_range=_range(run.optimizer_seconds for run in runs),
        state_bytes=max(run.state_bytes for run in runs),
        parameters=runs[0].parameters,
    )


def curve(results: Results, label: str, value: Callable[[Point], float | None]) -> Curve:
    """Return the curve of `value` for one contender; a seed without a finite value at a step is left out there."""
    by_step: dict[int, list[tuple[float, float]]] = {}
    for point in results.points:
        measured = value(point)
        if point.contender == label and measured is not None:
            by_step.setdefault(point.step, []).append((point.seconds, measured))
    result = Curve([], [], [], [], [])
    for step, values in sorted(by_step.items()):
        numbers = [number for _, number in values]
        result.steps.append(step)
        result.seconds.append(fmean(seconds for seconds, _ in values))
        result.mean.append(fmean(numbers))
        result.low.append(min(numbers))
        result.high.append(max(numbers))
    return result


def path(results: Results, label: str) -> list[tuple[float, float]]:
    """Return the places of a contender's path over a surface, at the first seed."""
    first = results.header.seeds[0]
    return [
        point.place
        for point in results.points
        if point.contender == label and point.seed == first and point.place is not None
    ]


def _all_or_none(values: list[float | None]) -> list[float]:
    """Return the values if every run has one, else an empty list."""
    numbers = _drop_missing(values)
    return numbers if len(numbers) == len(values) else []


def _range(values: Iterable[float | None]) -> tuple[float, float] | None:
    numbers = _drop_missing(values)
    return (min(numbers), max(numbers)) if len(numbers) > 1 else None


def _median(values: Iterable[float | None]) -> float | None:
    numbers = _drop_missing(values)
    return median(numbers) if numbers else None


def _drop_missing(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]

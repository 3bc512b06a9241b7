"""Summarise the records of a race: a standing and a curve for each contender, who won, and the columns of a table."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median, stdev
from typing import final

from gradstep.lab.contenders import base_name
from gradstep.lab.results import ContenderEntry, CurvePoint, RaceResults, RunSummary, read_results
from gradstep.lab.task import Task
from gradstep.lab.tasks import TASKS
from gradstep.lab.tasks.surface import Surface
from gradstep.report.words import TINY, number, percent, plus_minus, seconds, size


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
    """The result of one contender over all its seeds. Times in seconds, memory in bytes."""

    entry: ContenderEntry
    status: str  # "finished", or what happened instead and at which step
    diverged: bool
    steps: int
    # loss, accuracy: mean of the last evaluations; None if any seed diverged or none was evaluated
    loss: float | None
    spread: float  # greatest minus least loss over seeds
    losses: Mapping[int, float]  # the last loss of each seed that finished
    accuracy: float | None
    first_step: float | None  # the slowest first step; it compiled, if any did
    step: float | None  # median whole step; optimizer: median of the optimizer's part
    # step_range, optimizer_range: least and greatest of the seeds' medians; None for fewer than two
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


def races_in(folder: Path) -> list[RaceResults]:
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


def standings(results: RaceResults) -> list[Standing]:
    """Return the standing of every contender that has a summary, the lowest loss first, those that diverged last."""
    table = []
    for entry in results.header.contenders:
        runs = [summary for summary in results.summaries if summary.contender == entry.label]
        if runs:
            table.append(_standing(entry, runs))
    return sorted(table, key=lambda one: (one.loss is None, one.loss))


def _standing(entry: ContenderEntry, runs: list[RunSummary]) -> Standing:
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


def curve(results: RaceResults, label: str, value: Callable[[CurvePoint], float | None]) -> Curve:
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


def path(results: RaceResults, label: str) -> list[tuple[float, float]]:
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


TWICE = 2.0
"""Smallest difference that is written as a ratio, and not in per cent."""
LARGEST_RATIO = 1000.0
"""Largest ratio that is written exactly: beyond it, both losses are practically zero."""


@final
@dataclass(frozen=True)
class RaceVerdict:
    """The winner's label (None if nobody is ahead beyond the noise), a few words for a card, and a sentence."""

    winner: str | None
    short: str
    sentence: str


def judge_race(results: RaceResults) -> RaceVerdict:
    """Return who won and by how much; nobody, if runs did not finish or differ only within the noise.

    Contenders at one seed start alike and see the same batches, so they are compared seed by seed. A contender is ahead
    of another if its loss is lower at every seed and its mean lead exceeds the standard deviation of the lead.
    """
    table = standings(results)
    seeds = results.header.seeds
    if any("interrupted" in one.status for one in table):
        return RaceVerdict(None, "interrupted", "No winner: the race was interrupted.")
    finished = [one for one in table if len(one.losses) == len(seeds)]
    if not finished:
        return RaceVerdict(None, "nobody arrived", "No winner: nobody arrived; no contender finished at every seed.")
    after = f"after {results.header.steps:,} steps"
    word = TASKS[results.header.task].loss_word
    best = finished[0]
    if len(table) == 1:
        return RaceVerdict(None, f"{word} {best.loss_text}", f"{best.entry.label}: {word} {best.loss_text} {after}.")
    if len(seeds) == 1:
        return RaceVerdict(
            None,
            "one seed: too close to call",
            f"Too close to call: with one seed the noise is not known. Lowest is {best.entry.label}, {word} "
            f"{best.loss_text} {after}.",
        )
    rivals = [one for one in finished[1:] if not _ahead(best, one)]
    if rivals:
        names = [f"{one.entry.label} ({one.loss_text})" for one in (best, *rivals)]
        between = f"{', '.join(names[:-1])} and {names[-1]}"
        return RaceVerdict(
            None, "too close to call", f"Too close to call {after}, at {len(seeds)} seeds: {word} of {between}."
        )
    first = f"{best.entry.label} wins: {word} {best.loss_text} {after}"
    if len(finished) == 1:
        return RaceVerdict(best.entry.label, f"{word} {best.loss_text}", f"{first}; no other finished at every seed.")
    second = finished[1]
    return RaceVerdict(
        best.entry.label,
        f"{word} {best.loss_text}",
        f"{first}, {_lower(best, second)} {second.entry.label} ({second.loss_text}), ahead at all {len(seeds)} seeds.",
    )


def _ahead(one: Standing, other: Standing) -> bool:
    # Losses below TINY count as equal.
    leads = [max(other.losses[seed], TINY) - max(loss, TINY) for seed, loss in one.losses.items()]
    return min(leads) > 0 and fmean(leads) > stdev(leads)


def _lower(best: Standing, second: Standing) -> str:
    """Return how much lower the loss is: a ratio, or per cent where it is below `TWICE`."""
    low, high = fmean(best.losses.values()), fmean(second.losses.values())
    if high > LARGEST_RATIO * low:
        return f"over {LARGEST_RATIO:,.0f} times lower than"
    if high / low >= TWICE:
        return f"{high / low:,.1f} times lower than"
    return f"{100 * (1 - low / high):.0f} % lower than"


@final
@dataclass(frozen=True)
class StandingsColumn:
    """A column: its title, the text of a cell, and the value that decides which is best."""

    title: str
    text: Callable[[Standing], str]
    value: Callable[[Standing], float | None]  # a number, the lower the better; None where a contender has none
    # for a noisy measurement, whether a contender is ahead of all others beyond the noise; None for exact values
    ahead: Callable[[Standing, list[Standing]], bool] | None = None

    def best(self, table: list[Standing]) -> list[bool]:
        """Return for each row whether it is shown in bold.

        Exact values: all rows with the same text as the best, unless all rows are alike. Noisy measurements: the row
        that is ahead beyond the noise.
        """
        if self.ahead is not None:
            return [self.ahead(one, [other for other in table if other is not one]) for one in table]
        values = [(value, self.text(one)) for one in table if (value := self.value(one)) is not None]
        if len({text for _, text in values}) < 2:
            return [False] * len(table)
        _, best = min(values)
        return [self.value(one) is not None and self.text(one) == best for one in table]


_TRAINED = ("accuracy", "share", "state", "per parameter")
"""Columns that say nothing about a surface."""


def list_columns(task: Task, winner: str | None) -> list[StandingsColumn]:
    """Return the columns of a task, given the winner's label; a surface has none for accuracy and memory."""
    every = (
        StandingsColumn(
            task.loss_word, lambda one: one.loss_text, lambda one: one.loss, lambda one, _: one.entry.label == winner
        ),
        StandingsColumn(
            "accuracy",
            lambda one: percent(one.accuracy),
            lambda one: -one.accuracy if one.accuracy is not None else None,
            lambda one, _: False,  # too coarse, a few of some hundred images: the loss decides
        ),
        StandingsColumn(
            "step",
            lambda one: one.step_text,
            lambda one: one.step,
            lambda one, others: _faster(one.step_range, [other.step_range for other in others]),
        ),
        StandingsColumn(
            "optimizer",
            lambda one: time_text(one.optimizer, one.optimizer_range),
            lambda one: one.optimizer,
            lambda one, others: _faster(one.optimizer_range, [other.optimizer_range for other in others]),
        ),
        StandingsColumn("share", lambda one: percent(one.share), lambda one: None),
        StandingsColumn("first step", lambda one: seconds(one.first_step), lambda one: None),
        StandingsColumn("state", lambda one: size(one.state_bytes, binary=True), lambda one: one.state_bytes),
        StandingsColumn(
            "per parameter", lambda one: f"{one.bytes_per_parameter:.2f} B", lambda one: one.bytes_per_parameter
        ),
    )
    return [column for column in every if not (isinstance(task, Surface) and column.title in _TRAINED)]


def _faster(mine: tuple[float, float] | None, others: list[tuple[float, float] | None]) -> bool:
    """Return whether the slowest run is faster than the fastest of all others; False without a spread."""
    ranges = [ends for ends in others if ends is not None]
    return mine is not None and bool(ranges) and all(mine[1] < ends[0] for ends in ranges)

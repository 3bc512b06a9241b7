"""The columns of a summary table, the same in the report and on the terminal."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

from gradstep.lab.standings import Standing, time_text
from gradstep.lab.task import Task
from gradstep.lab.tasks.surface import Surface
from gradstep.report.words import percent, seconds, size


@final
@dataclass(frozen=True)
class Column:
    """A column: its title, the text of a cell, and the value that decides which is best.

    Args:
        value: a number, the lower the better; None where a contender has none.
        ahead: for a noisy measurement, whether a contender is ahead of all others beyond the noise; None for exact
            values.
    """

    title: str
    text: Callable[[Standing], str]
    value: Callable[[Standing], float | None]
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


def columns(task: Task, winner: str | None) -> list[Column]:
    """Return the columns of a task; a surface has none for accuracy and memory.

    Args:
        task: the task of the race.
        winner: label of the winner; None if there is none.
    """
    shown = [
        Column(
            task.loss_word, lambda one: one.loss_text, lambda one: one.loss, lambda one, _: one.entry.label == winner
        )
    ]
    if not isinstance(task, Surface):
        shown.append(
            Column(
                "accuracy",
                lambda one: percent(one.accuracy),
                lambda one: -one.accuracy if one.accuracy is not None else None,
                lambda one, _: False,  # too coarse, a few of some hundred images: the loss decides
            )
        )
    shown += [
        Column(
            "step",
            lambda one: one.step_text,
            lambda one: one.step,
            lambda one, others: _faster(one.step_range, [other.step_range for other in others]),
        ),
        Column(
            "optimizer",
            lambda one: time_text(one.optimizer, one.optimizer_range),
            lambda one: one.optimizer,
            lambda one, others: _faster(one.optimizer_range, [other.optimizer_range for other in others]),
        ),
    ]
    if not isinstance(task, Surface):
        shown.append(Column("share", lambda one: percent(one.share), lambda one: None))
    shown.append(Column("first step", lambda one: seconds(one.first_step), lambda one: None))
    if not isinstance(task, Surface):
        shown += [
            Column("state", lambda one: size(one.state_bytes, binary=True), lambda one: one.state_bytes),
            Column(
                "per parameter",
                lambda one: f"{one.bytes_per_parameter:.2f} B",
                lambda one: one.bytes_per_parameter,
            ),
        ]
    return shown


def _faster(mine: tuple[float, float] | None, others: list[tuple[float, float] | None]) -> bool:
    """Return whether the slowest run is faster than the fastest of all others; False without a spread."""
    ranges = [ends for ends in others if ends is not None]
    return mine is not None and bool(ranges) and all(mine[1] < ends[0] for ends in ranges)

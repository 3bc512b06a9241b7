"""The columns of a summary table, the same in the report and on the terminal."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

from gradstep.lab.standings import Standing
from gradstep.lab.task import Task
from gradstep.lab.tasks.surface import Surface
from gradstep.lab.words import number, percent, seconds, size


@final
@dataclass(frozen=True)
class Column:
    """A column: its title, the text of a cell, and the value by which the best is found.

    Args:
        value: a number, the lower the better; None where a contender has none.
    """

    title: str
    text: Callable[[Standing], str]
    value: Callable[[Standing], float | None]

    def best(self, table: list[Standing]) -> list[bool]:
        """Which rows show the best value: all that show the same text as the best, none where all are alike."""
        known = [(value, self.text(one)) for one in table if (value := self.value(one)) is not None]
        if len({text for _, text in known}) < 2:
            return [False] * len(table)
        _, best = min(known)
        return [self.value(one) is not None and self.text(one) == best for one in table]


def columns(task: Task, seeds: int) -> list[Column]:
    """What is worth showing of this task: a surface has no accuracy and no memory to speak of."""
    shown = [Column(task.loss_word, _loss(seeds), lambda one: one.loss)]
    if not isinstance(task, Surface):
        shown.append(
            Column(
                "accuracy",
                lambda one: percent(one.accuracy),
                lambda one: -one.accuracy if one.accuracy is not None else None,
            )
        )
    shown += [
        Column("step", lambda one: seconds(one.step), lambda one: one.step),
        Column("optimizer", lambda one: seconds(one.optimizer), lambda one: one.optimizer),
    ]
    if not isinstance(task, Surface):
        shown.append(Column("share", lambda one: percent(one.share), lambda one: one.share))
    shown.append(Column("first step", lambda one: seconds(one.first_step), lambda one: None))
    if not isinstance(task, Surface):
        shown += [
            Column("state", lambda one: size(one.state_bytes), lambda one: one.state_bytes),
            Column(
                "per parameter",
                lambda one: f"{one.bytes_per_parameter:.2f} B",
                lambda one: one.bytes_per_parameter,
            ),
        ]
    return shown


def _loss(seeds: int) -> Callable[[Standing], str]:
    def text(one: Standing) -> str:
        if one.diverged:
            return "diverged"
        return number(one.loss) + (f" ± {number(one.spread / 2)}" if seeds > 1 and one.loss is not None else "")

    return text

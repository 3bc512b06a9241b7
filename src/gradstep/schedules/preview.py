"""A schedule at a glance: the values at the updates that matter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from gradstep.schedules.checks import count

if TYPE_CHECKING:
    from gradstep.schedules.base import Schedule

ENDLESS = 1000
"""How many updates are shown of a schedule that has no end."""


@final
@dataclass(frozen=True)
class PreviewRow:
    """One update, its value, and why it is shown."""

    update: int
    value: float
    why: str


@final
@dataclass(frozen=True)
class Preview:
    """The updates of a schedule that matter, in ascending order; ``print`` shows them as a table."""

    rows: tuple[PreviewRow, ...]

    def __str__(self) -> str:
        values = [f"{row.value:.6g}" for row in self.rows]
        left = max(len("update"), *(len(str(row.update)) for row in self.rows))
        right = max(len("value"), *map(len, values))
        lines = [f"{row.update:>{left}}  {value:>{right}}  {row.why}" for row, value in zip(self.rows, values)]
        return "\n".join([f"{'update':>{left}}  value", *lines])


def horizon(schedule: Schedule, updates: int | None) -> int:
    """How many updates of a schedule to show."""
    if updates is not None:
        return count("updates", updates, least=1)
    return max(1, ENDLESS if schedule.updates is None else schedule.updates)


def preview(schedule: Schedule, updates: int | None) -> Preview:
    """The first, highest and last of so many updates, and those around every boundary."""
    total = horizon(schedule, updates)
    why: dict[int, list[str]] = {0: ["first"]}
    for boundary in schedule.boundaries(total):
        why.setdefault(boundary - 1, []).append("before the boundary")
        why.setdefault(boundary, []).append("boundary")
        if boundary + 1 < total:
            why.setdefault(boundary + 1, []).append("after the boundary")
    why.setdefault(max(range(total), key=schedule.value), []).append("peak")
    why.setdefault(total - 1, []).append("last")
    if schedule.updates is not None and schedule.updates <= total:
        why.setdefault(schedule.updates, []).append("held from here on")
    return Preview(tuple(PreviewRow(u, schedule.value(u), ", ".join(dict.fromkeys(why[u]))) for u in sorted(why)))

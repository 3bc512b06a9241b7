"""The base of all schedules: value, preview and picture; joining and scaling make new schedules from others."""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from gradstep.rules.settings import number

if TYPE_CHECKING:
    from gradstep.report import Line, LineChart


class Schedule(ABC):
    """A value as a pure function of the number of the update: ``schedule(0)`` is what the first update uses.

    The constructors in ``gradstep.schedules`` make them. For one of your own, write a frozen dataclass with the three
    abstract members; composition, preview and plot follow. Two schedules with the same settings are equal, and every
    one can be pickled.

    Example:
        >>> from dataclasses import dataclass
        >>> from gradstep.schedules import Schedule, warmup
        >>> @dataclass(frozen=True)
        ... class Harmonic(Schedule):
        ...     '''start / (1 + t), for ever.'''
        ...
        ...     start: float
        ...
        ...     @property
        ...     def updates(self):
        ...         return None
        ...
        ...     def value(self, update):
        ...         return self.start / (1 + update)
        ...
        ...     def boundaries(self, updates):
        ...         return ()
        >>> warmup(updates=2, to=1.0).then(Harmonic(1.0))(3)
        0.5
    """

    @property
    @abstractmethod
    def updates(self) -> int | None:
        """Length in updates; None for a schedule without an end."""

    @abstractmethod
    def value(self, update: int) -> float:
        """Return the value at an ``update`` ≥ 0 (not checked); from ``updates`` on it is the last value."""

    @abstractmethod
    def boundaries(self, updates: int) -> tuple[int, ...]:
        """Return the updates at which a new piece begins: ascending, each above 0 and below ``updates``."""

    @final
    def __call__(self, update: int) -> float:
        """Return the value at an update.

        Raises:
            TypeError: the update is not a whole number.
            ValueError: the update is below 0.
        """
        return self.value(count("update", update))

    @final
    def then(self, following: Schedule, *, at: int | None = None) -> Schedule:
        """Return this schedule followed by another one, whose update 0 is update ``at`` of this one.

        Args:
            following: the next schedule.
            at: its first update, ≥ 0, counted from the start of this schedule; by default this schedule's end. An
                earlier ``at`` cuts this schedule short, a later one holds its last value. Required without an end.

        Raises:
            TypeError: ``following`` is not a schedule.
            ValueError: this schedule has no end, and ``at`` is not given.

        Example:
            >>> from gradstep.schedules import constant, linear
            >>> lr = constant(1.0).then(linear(1.0, 0.0, updates=4), at=2)
            >>> [lr(update) for update in range(7)]
            [1.0, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0]
        """
        if not isinstance(following, Schedule):
            raise TypeError(f"then() takes a schedule, but got {following!r}; a fixed value is constant(value)")
        if at is None and self.updates is None:
            raise ValueError("this schedule has no end: say at which update the next one begins, then(..., at=)")
        start = self.updates if at is None else count("at", at)
        assert start is not None
        return Sequence(self, following, start)

    @final
    def __mul__(self, factor: float) -> Schedule:
        return Scaled(self, level("factor", factor))

    __rmul__ = __mul__

    @final
    def preview(self, updates: int | None = None) -> Preview:
        """Return the first, highest and last value, and the values around every boundary; ``print`` shows a table.

        Args:
            updates: how far to look, ≥ 1; by default to the end, or 1,000 updates if there is none.

        Example:
            >>> from gradstep.schedules import cosine, warmup
            >>> print(warmup(updates=100, to=3e-4).then(cosine(3e-4, updates=900)).preview())
            update  value
                 0            0  first
                99     0.000297  before the boundary
               100       0.0003  boundary, peak
               101  0.000299999  after the boundary
               999  9.13851e-10  last
              1000            0  held from here on
        """
        total = horizon(self, updates)
        why: dict[int, list[str]] = {0: ["first"]}
        for boundary in self.boundaries(total):
            why.setdefault(boundary - 1, []).append("before the boundary")
            why.setdefault(boundary, []).append("boundary")
            if boundary + 1 < total:
                why.setdefault(boundary + 1, []).append("after the boundary")
        why.setdefault(max(range(total), key=self.value), []).append("peak")
        why.setdefault(total - 1, []).append("last")
        if self.updates is not None and self.updates <= total:
            why.setdefault(self.updates, []).append("held from here on")
        return Preview(tuple(PreviewRow(u, self.value(u), ", ".join(dict.fromkeys(why[u]))) for u in sorted(why)))

    @final
    def plot(self, updates: int | None = None) -> LineChart:
        """Draw the value over the updates, with its boundaries.

        Its ``save`` writes an SVG file or an HTML page, and notebooks show it.

        Args:
            updates: how far to draw, ≥ 1; by default to the end, or 1,000 updates if there is none.

        Example:
            >>> from gradstep.schedules import cosine
            >>> cosine(0.1, updates=50).plot().x_title
            'update'
        """
        from gradstep.report import LineChart
        from gradstep.report.scales import fit

        total = horizon(self, updates)
        line = schedule_line(self, total)
        marks = [(float(b), "") for b in self.boundaries(total)]
        return LineChart("Schedule", "update", "value", [line], y=fit(line.y, include=[0.0]), marks=marks)


@final
@dataclass(frozen=True)
class Sequence(Schedule):
    """One schedule, and another from update ``at`` on."""

    first: Schedule
    following: Schedule
    at: int

    @property
    def updates(self) -> int | None:
        length = self.following.updates
        return None if length is None else self.at + length

    def value(self, update: int) -> float:
        if update < self.at:
            return self.first.value(update)
        return self.following.value(update - self.at)

    def boundaries(self, updates: int) -> tuple[int, ...]:
        before = self.first.boundaries(min(updates, self.at))
        ends = sorted({self.at if self.first.updates is None else min(self.at, self.first.updates), self.at})
        after = self.following.boundaries(updates - self.at)
        return (*before, *(end for end in ends if 0 < end < updates), *(self.at + b for b in after))


@final
@dataclass(frozen=True)
class Scaled(Schedule):
    """A schedule times a number ≥ 0."""

    schedule: Schedule
    factor: float

    @property
    def updates(self) -> int | None:
        return self.schedule.updates

    def value(self, update: int) -> float:
        return self.factor * self.schedule.value(update)

    def boundaries(self, updates: int) -> tuple[int, ...]:
        return self.schedule.boundaries(updates)


ENDLESS = 1000
"""Number of updates that a preview or picture shows of a schedule without an end."""


@final
@dataclass(frozen=True)
class PreviewRow:
    """One line of a :class:`Preview`.

    Attributes:
        update: the number of the update, 0 for the first.
        value: the schedule's value there.
        why: the reason why it is shown.

    >>> PreviewRow(update=4, value=1.0, why="peak").value
    1.0
    """

    update: int
    value: float
    why: str


@final
@dataclass(frozen=True)
class Preview:
    """The updates of a schedule that matter, made by :meth:`Schedule.preview`; ``print`` shows them as a table.

    Attributes:
        rows: the updates, in ascending order.

    >>> from gradstep.schedules import warmup
    >>> print(warmup(updates=4, to=1.0).preview())
    update  value
         0      0  first
         3   0.75  peak, last
         4      1  held from here on
    """

    rows: tuple[PreviewRow, ...]

    def __str__(self) -> str:
        values = [f"{row.value:.6g}" for row in self.rows]
        left = max(len("update"), *(len(str(row.update)) for row in self.rows))
        right = max(len("value"), *map(len, values))
        lines = [f"{row.update:>{left}}  {value:>{right}}  {row.why}" for row, value in zip(self.rows, values)]
        return "\n".join([f"{'update':>{left}}  value", *lines])


def horizon(schedule: Schedule, updates: int | None) -> int:
    """Return how many updates of a schedule to show."""
    if updates is not None:
        return count("updates", updates, least=1)
    return max(1, ENDLESS if schedule.updates is None else schedule.updates)


_POINTS = 2000
"""Most points of a line: a picture cannot show more."""


def schedule_line(schedule: Schedule, total: int, name: str = "", colour: str = "blue") -> Line:
    """Return a schedule as a line of a picture; a jump at a boundary spans one update."""
    from gradstep.report import Line

    boundaries = schedule.boundaries(total)
    shown = sorted({0, total - 1, *range(0, total, -(-total // _POINTS)), *boundaries, *(b - 1 for b in boundaries)})
    return Line(name, shown, [schedule.value(u) for u in shown], colour)


# -- arguments: each function returns the checked value or raises -----------------------------------------------------


def count(name: str, value: int, least: int = 0) -> int:
    """Check a whole number of updates or cycles: an int or a NumPy integer, at least ``least``."""
    try:
        result = operator.index(value)
    except TypeError as error:
        raise TypeError(f"{name} must be a whole number, but is {value!r}") from error
    if result < least:
        raise ValueError(f"Invalid {name}: {value} (must be at least {least})")
    return result


def level(name: str, value: float) -> float:
    """Check a value of a schedule: finite, at least 0."""
    result = number(name, value)
    if result < 0:
        raise ValueError(f"Invalid {name}: {value} (must be at least 0)")
    return result


def positive(name: str, value: float) -> float:
    """Check a finite number above 0."""
    result = number(name, value)
    if result <= 0:
        raise ValueError(f"Invalid {name}: {value} (must be above 0)")
    return result


def shrinking(name: str, value: float) -> float:
    """Check a factor above 0 and at most 1."""
    result = positive(name, value)
    if result > 1:
        raise ValueError(f"Invalid {name}: {value} (must be at most 1)")
    return result


def fall(peak: float, floor: float) -> tuple[float, float]:
    """Check the two ends of a decay and return the higher one first."""
    high, low = level("peak", peak), level("floor", floor)
    if low > high:
        raise ValueError(f"Invalid floor: {floor} (must be at most peak, {peak}; for a rise use warmup() or linear())")
    return high, low

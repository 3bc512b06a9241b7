"""What every schedule is, and the two ways to make one from others: one after the other, and scaled."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from gradstep.schedules.checks import count, level
from gradstep.schedules.preview import Preview, preview

if TYPE_CHECKING:
    from gradstep.report import LineChart


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
        """How many updates it is made for; None if it has no end."""

    @abstractmethod
    def value(self, update: int) -> float:
        """The value at an update ≥ 0, not checked. At and after ``updates`` it is the last one, whatever ``update``."""

    @abstractmethod
    def boundaries(self, updates: int) -> tuple[int, ...]:
        """Where one piece ends and another begins: ascending, each above 0 and below ``updates``."""

    @final
    def __call__(self, update: int) -> float:
        """The value at an update.

        Raises:
            TypeError: the update is not a whole number.
            ValueError: the update is below 0.
        """
        return self.value(count("update", update))

    @final
    def then(self, following: Schedule, *, at: int | None = None) -> Schedule:
        """This schedule, and from update ``at`` on another one, which begins there with its own update 0.

        Args:
            following: what comes next.
            at: the first update of what follows, ≥ 0, counted from the start of this schedule; by default its end. A
                schedule may be cut short in this way, or held; one without an end needs it.

        Raises:
            TypeError: what follows is not a schedule.
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
        """First, highest and last value, and those around every boundary; a table when printed.

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
        return preview(self, updates)

    @final
    def plot(self, updates: int | None = None) -> LineChart:
        """A picture of the value over the updates, with its boundaries.

        Its ``save`` writes an SVG file or an HTML page, and notebooks show it.

        Args:
            updates: how far to draw, ≥ 1; by default to the end, or 1,000 updates if there is none.

        Example:
            >>> from gradstep.schedules import cosine
            >>> cosine(0.1, updates=50).plot().x_title
            'update'
        """
        from gradstep.schedules.gallery import plot

        return plot(self, updates)


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

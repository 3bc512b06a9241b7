"""The columns of a record that the doctor's rules read: one number for each update that was made."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import final

import numpy as np
from numpy.typing import NDArray

from gradstep.engines.statistics import Float64s
from gradstep.monitor.record import Header, ParameterInfo, Run, Update

MEDIAN_WIDTH = 9
"""Updates in a running median: enough to ignore a single bad batch, few enough to see a warmup. A choice."""

ACTIVE = 0.1
"""Share of the highest learning rate from which on an update's size is judged: the beginning of a warmup and the end of
a decay have small updates anyway. A choice."""


@final
@dataclass(frozen=True, eq=False)
class Series:
    """One number per update, without the updates where it was not collected."""

    updates: NDArray[np.int64]  # (n,) numbers of the updates, ascending
    values: Float64s  # (n,) their values, not always finite

    def __len__(self) -> int:
        return len(self.values)

    def where(self, mask: NDArray[np.bool_]) -> Series:
        """Return the updates for which ``mask``, (n,), is True."""
        return Series(self.updates[mask], self.values[mask])

    @property
    def finite(self) -> Series:
        """The series without NaN and infinity."""
        return self.where(np.isfinite(self.values))

    def smooth(self, width: int = MEDIAN_WIDTH) -> Series:
        """Return running medians over ``width`` updates; with fewer records than updates, over fewer records."""
        if len(self) < 2:
            return self
        interval = float(np.median(np.diff(self.updates)))
        width = min(max(1, round(width / max(interval, 1.0))), len(self))
        medians = np.median(np.lib.stride_tricks.sliding_window_view(self.values, width), axis=-1)
        start = (width - 1) // 2
        return Series(self.updates[start : start + len(medians)], medians)

    def part(self, start: float, stop: float) -> Series:
        """Return the series between two shares of its length, both in [0, 1]; at least one update."""
        first = min(int(start * len(self)), len(self) - 1)
        last = max(int(stop * len(self)), first + 1)
        return Series(self.updates[first:last], self.values[first:last])

    def during(self, first: int, last: int) -> Series:
        """Return the series from update ``first`` to ``last``, both included."""
        return self.where((self.updates >= first) & (self.updates <= last))

    @property
    def median(self) -> float:
        """The median; NaN of an empty series."""
        return float(np.median(self.values)) if len(self) else math.nan

    @property
    def span(self) -> tuple[int, int]:
        """The first and the last update."""
        return int(self.updates[0]), int(self.updates[-1])

    @property
    def highest(self) -> tuple[int, float]:
        """The update of the largest value, and that value."""
        at = int(np.argmax(self.values))
        return int(self.updates[at]), float(self.values[at])


@final
@dataclass(frozen=True)
class Evidence:
    """A record and the columns that the rules read."""

    run: Run

    @property
    def header(self) -> Header:
        """The last header of the record."""
        return self.run.header

    @cached_property
    def made(self) -> tuple[Update, ...]:
        """The updates that were made."""
        return self.run.made

    @property
    def span(self) -> tuple[int, int] | None:
        """The first and the last update made."""
        return (self.made[0].update, self.made[-1].update) if self.made else None

    # -- columns -------------------------------------------------------------------------------------------------

    def _column(self, get: Callable[[Update], float | None], updates: Iterable[Update] | None = None) -> Series:
        rows = self.made if updates is None else updates
        pairs = [(u.update, value) for u in rows if (value := get(u)) is not None]
        return Series(
            np.array([u for u, _ in pairs], dtype=np.int64), np.array([v for _, v in pairs], dtype=np.float64)
        )

    @cached_property
    def loss(self) -> Series:
        """The loss, without the updates where it is not finite."""
        return self._column(lambda u: u.loss).finite

    @cached_property
    def lr(self) -> Series:
        """The highest learning rate of all groups."""
        return self._column(lambda u: max((g.lr for g in u.groups if g.lr is not None), default=None))

    @cached_property
    def grad_norm(self) -> Series:
        """The global norm of the gradient, before clipping."""
        return self._column(lambda u: u.grad_norm).finite

    @cached_property
    def weight_norm(self) -> Series:
        """The global norm of the weights."""
        return self._column(lambda u: u.weight_norm).finite

    @cached_property
    def active(self) -> frozenset[int]:
        """Numbers of the updates whose learning rate is not far below the run's highest."""
        highest = self.lr.finite.values.max(initial=0.0)
        return frozenset(self.lr.updates[self.lr.values >= ACTIVE * highest].tolist()) if highest > 0 else frozenset()

    @cached_property
    def ratio(self) -> Series:
        """Norm of the update over norm of the weights, in active updates (:attr:`active`).

        The norm of the weights is the present or the first one, whichever is larger: after a large decay has shrunk the
        weights, any update looks large beside them.
        """
        start = self.weight_norm.values[0] if len(self.weight_norm) else 0.0

        def ratio(u: Update) -> float | None:
            weights, change = u.weight_norm, u.update_norm
            if u.update not in self.active or weights is None or change is None:
                return None
            return change / max(weights, start) if max(weights, start) > 0 else None

        return self._column(ratio).finite

    @cached_property
    def unmoved_share(self) -> Series:
        """Share of the elements that their gradient did not change, in active updates (:attr:`active`)."""
        return self._column(lambda u: u.unmoved_share if u.update in self.active else None)

    @cached_property
    def loss_scale(self) -> Series:
        """The loss scale of float16, in made and skipped updates; empty if the loss was never scaled."""
        scale = self._column(lambda u: u.loss_scale, self.run.updates)
        return scale if np.any(scale.values != 1) else scale.where(scale.values != 1)

    # -- progress ------------------------------------------------------------------------------------------------

    @cached_property
    def fall(self) -> float | None:
        """The fall of the loss as a share of its first value; None if there are too few updates."""
        if len(self.loss) < 2 * MEDIAN_WIDTH:
            return None
        first, last = self.loss.values[:MEDIAN_WIDTH].mean(), self.loss.values[-MEDIAN_WIDTH:].mean()
        return float((first - last) / abs(first)) if first else None

    # -- parameters ----------------------------------------------------------------------------------------------

    @cached_property
    def has_parameters(self) -> bool:
        """Whether the record has numbers of single parameters."""
        return any(u.parameters is not None for u in self.made)

    def of_parameters(self, name: str) -> tuple[NDArray[np.int64], Float64s]:
        """Return a quantity of every parameter, by its field's name in :class:`PerParameter`, such as ``grad_norm``.

        Returns:
            The numbers of the updates, (n,), and the values, (n, parameters), NaN where there was no gradient.
        """
        rows = [u for u in self.made if u.parameters is not None]
        table = np.full((len(rows), len(self.header.parameters)), np.nan)
        for row, u in zip(table, rows):
            assert u.parameters is not None
            row[u.parameters.index] = getattr(u.parameters, name)
        return np.array([u.update for u in rows], dtype=np.int64), table

    @property
    def decays(self) -> tuple[float, ...]:
        """The weight decay of every group at the start; 0 where it has none."""
        values = (group.settings.get("weight_decay") for group in self.header.groups)
        return tuple(float(value) if isinstance(value, (int, float)) else 0.0 for value in values)

    def decay_of(self, parameter: ParameterInfo) -> float:
        """Return the weight decay of a parameter's group at the start; 0 without a group."""
        return 0.0 if parameter.group is None else self.decays[parameter.group]

    @cached_property
    def rules(self) -> tuple[str, ...]:
        """Name of every group's gradstep rule or else of the optimizer's class, in lower case."""
        usual = self.header.rule or self.header.optimizer
        return tuple(str(group.settings.get("rule", usual)).lower() for group in self.header.groups)

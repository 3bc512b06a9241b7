"""An update that was made or skipped and whose record is not written yet, and the numbers of that record."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from typing import Any, final

import numpy as np
from numpy.typing import NDArray
from torch.optim import Optimizer

from gradstep.engines.statistics import SUMS
from gradstep.monitor.record import Numbers, PerParameter, Update
from gradstep.monitor.statistics import Collected, Found
from gradstep.monitor.watched import Outcome
from gradstep.rules import Rule

Settings = tuple[float | None, float | None, tuple[float, float] | None, float | None]
"""Of a group: the first fields of :class:`Numbers`."""


def settings(optimizer: Optimizer) -> list[Settings]:
    """Return the current settings of every group."""
    return [_settings(group) for group in optimizer.param_groups]


def settings_of_rule(rule: Rule) -> Settings:
    """Return the settings of a rule, as :func:`settings` returns those of a group."""
    return _settings(vars(rule))


@final
class Groups:
    """Sum the statistics of parameters into one row for each group."""

    _groups: NDArray[np.int64] | None = None
    """Whose the rows of the update before were: mostly those of the same as in the next one."""
    _place: Sequence[int]
    _first: NDArray[np.int64]
    _elements: Sequence[int]

    def rows(self, found: Collected, now: Sequence[Settings], clip: float) -> tuple[Numbers, ...]:
        """A row for each group.

        Args:
            found: the statistics.
            now: the settings of the groups.
            clip: what the gradients had been multiplied by before the optimizer was given them.
        """
        if found.groups is not self._groups:
            self._divide(found)
        table, bad = found.table, found.bad
        if len(table) > len(self._place):
            table = np.empty((len(self._place), table.shape[1]))
            np.add.reduceat(found.table[:, :SUMS], self._first, out=table[:, :SUMS])
            np.fmin.reduceat(found.table[:, SUMS], self._first, out=table[:, SUMS])
            np.fmax.reduceat(found.table[:, SUMS + 1], self._first, out=table[:, SUMS + 1])
            bad = None if bad is None else np.add.reduceat(bad, self._first)
        rows, counts = table.tolist(), repeat(0, len(table)) if bad is None else bad.tolist()
        known = dict(zip(self._place, zip(self._elements, rows, counts)))
        return tuple([_numbers(own, clip, *known.get(group, _NONE)) for group, own in enumerate(now)])

    def _divide(self, found: Collected) -> None:
        """Remember which rows are whose."""
        present, self._first = np.unique(found.groups, return_index=True)
        self._groups, self._place = found.groups, present.tolist()
        self._elements = np.add.reduceat(found.elements, self._first).tolist() if self._place else []


def per_parameter(found: Collected, clip: float) -> PerParameter:
    """A row for each parameter; ``clip`` as above."""
    grad, weight, update, unmoved, least, most = np.array(found.table.T, order="C")
    with np.errstate(over="ignore", invalid="ignore"):  # of a run that diverged
        roots = np.sqrt((grad / clip**2, weight, update, least, most)).astype(np.float32)
    return PerParameter(
        index=found.index.astype(np.int32),
        grad_norm=roots[0],
        weight_norm=roots[1],
        update_norm=roots[2],
        unmoved=unmoved.astype(np.float32),
        root_min=roots[3],
        root_max=roots[4],
        non_finite=np.zeros(len(found.index), np.float32) if found.bad is None else found.bad.astype(np.float32),
    )


_NONE: tuple[int, Sequence[float], float] = (0, (), 0)
"""Of a group of which no parameter had a gradient."""


def _numbers(own: Settings, clip: float, elements: int, row: Sequence[float], bad: float) -> Numbers:
    if not elements:
        return Numbers(*own)
    grad, weight, update, unmoved, least, most = row
    return Numbers(
        *own,
        elements,
        _root(grad) / clip,
        _root(weight),
        _root(update),
        int(unmoved),
        None if math.isnan(least) else _root(least),
        None if math.isnan(most) else _root(most),
        int(bad),
    )


def _root(square: float) -> float:
    return math.sqrt(square) if square >= 0 else math.nan


def _settings(group: Mapping[str, Any]) -> Settings:
    betas = group.get("betas")
    pair = None if betas is None or len(betas) != 2 else (float(betas[0]), float(betas[1]))
    return _number(group.get("lr")), _number(group.get("weight_decay")), pair, _number(group.get("momentum"))


def _number(setting: Any) -> float | None:
    """A number of its own: a schedule may move a tensor in place."""
    return None if setting is None else float(setting)


NO_CLIP = 1 - 1e-5
"""A ratio of norms above this is rounding, and no clipping."""


@final
@dataclass(slots=True)
class Pending:
    """What is known so far; see :class:`gradstep.monitor.record.Update`.

    Attributes:
        settings: of the groups, as the update used them; in a rule, if it was one.
        clip: what the optimizer itself clipped by.
        found: the statistics, if they were collected.
        uncleared, other_optimizer: what happened since the step before.
        extra: what else was logged.
    """

    number: int
    settings: Sequence[Settings | Rule]
    seconds: float | None = None
    clip: float | None = None
    loss_scale: float | None = None
    skipped: str = ""
    culprit: str | None = None
    micro_batches: int | None = None
    loss: float | None = None
    grad_norm: float | None = None
    found: Found | None = None
    uncleared: bool | None = None
    other_optimizer: str = ""
    extra: Mapping[str, float] = field(default_factory=dict)
    time: float = field(default_factory=time.time)

    def tell(self, outcome: Outcome) -> None:
        """Add what a stepper knows."""
        self.loss, self.grad_norm = outcome.loss, outcome.grad_norm
        self.skipped, self.culprit = outcome.reason, outcome.parameter
        self.loss_scale, self.micro_batches = outcome.loss_scale, outcome.micro_batches

    @property
    def alarming(self) -> bool:
        """Whether somebody who looks on wants to know at once."""
        return (
            bool(self.skipped)
            or not (self.found is None or self.found.finite)
            or not (self.loss is None or math.isfinite(self.loss))
        )

    def record(self, groups: Groups, *, single: bool) -> Update:
        """The update as it is recorded.

        Args:
            groups: makes their numbers.
            single: whether the numbers of single parameters are wanted.
        """
        found = None if self.found is None else self.found.collected()
        before = 1.0 if found is None else self._clipped_before(found)
        known = [settings_of_rule(own) if isinstance(own, Rule) else own for own in self.settings]
        return Update(
            self.number,
            self.time,
            loss=self.loss,
            groups=tuple(Numbers(*own) for own in known) if found is None else groups.rows(found, known, before),
            clip=self._clip(before),
            seconds=self.seconds,
            loss_scale=self.loss_scale,
            skipped=self.skipped,
            culprit=self.culprit,
            micro_batches=self.micro_batches,
            parameters=per_parameter(found, before) if found is not None and single else None,
            uncleared=self.uncleared,
            other_optimizer=self.other_optimizer,
            extra=self.extra,
        )

    def _clip(self, before: float) -> float | None:
        if self.skipped or (self.clip is None and self.grad_norm is None):
            return None
        return before if self.clip is None else self.clip * before

    def _clipped_before(self, found: Collected) -> float:
        """What the gradients had been multiplied by when the optimizer was given them."""
        if self.grad_norm is None:
            return 1.0
        given = math.sqrt(float(found.table[:, 0].sum()))
        if not (0 < given < self.grad_norm * NO_CLIP and math.isfinite(self.grad_norm)):
            return 1.0
        return given / self.grad_norm

"""An update that has been made or skipped, and whose record is not written yet."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import final

from gradstep.monitor.numbers import Groups, Settings, of_rule, per_parameter
from gradstep.monitor.record import Numbers, Update
from gradstep.monitor.statistics import Collected, Found
from gradstep.monitor.watched import Outcome
from gradstep.rules import Rule

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
        known = [of_rule(own) if isinstance(own, Rule) else own for own in self.settings]
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

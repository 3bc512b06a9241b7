"""What a monitor does around each step of an optimizer."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, final
from weakref import finalize

import torch

from gradstep.engines.statistics import Detail
from gradstep.engines.step import Observer, StepReport
from gradstep.monitor.loop import Loop
from gradstep.monitor.outbox import Outbox
from gradstep.monitor.pending import Pending, Settings, settings
from gradstep.monitor.record import Header
from gradstep.monitor.statistics import FusedStatistics, Statistics, TorchStatistics
from gradstep.monitor.watched import LossScaler, skip_reason
from gradstep.optimizers import Optimizer
from gradstep.rules import Rule


@final
class Steps(Observer):
    """Counts an optimizer's updates, and puts what those did that are to be recorded into the outbox.

    Args:
        optimizer: what is watched; until :meth:`close`, it keeps this alive.
        outbox: is closed when this is collected as garbage.
        header: makes one, given the number of the update that follows.
        every: record each so many updates.
        detail: what a gradstep optimizer shall collect; another one's parameters are looked at one by one.
        scaler: the ``GradScaler`` of a loop without stepper.
    """

    updates: int = 0
    """Updates made; the next one's number."""
    last: int | None = None
    """The number of the update made or skipped last; None before the first."""
    due: bool = False
    """Whether that one was to be recorded."""
    _sizes: tuple[int, ...] | None = None
    """Parameters in each group, as the sinks know them; None before the first step."""
    _begin: float = 0.0

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        outbox: Outbox,
        header: Callable[[int], Header],
        *,
        every: int,
        detail: Detail,
        scaler: LossScaler | None,
    ) -> None:
        self._optimizer, self._outbox, self._header = optimizer, outbox, header
        self._every, self._scaler = every, scaler
        self.loss_scale = self.scale()
        self._loop = Loop(optimizer)
        self._statistics: Statistics
        if isinstance(optimizer, Optimizer):
            self._statistics = FusedStatistics(optimizer, detail)
            self._handles = [optimizer.register_observer(self)]
        else:
            self._statistics = TorchStatistics(optimizer)
            self._handles = [
                optimizer.register_step_pre_hook(self._before_torch),
                optimizer.register_step_post_hook(self._after_torch),
            ]
        finalize(self, outbox.close).atexit = False  # at the end of the process the outbox sees to it

    @property
    def closed(self) -> bool:
        """Whether the optimizer has been let go of."""
        return not self._handles

    @property
    def announced(self) -> bool:
        """Whether the sinks have been told who is trained."""
        return self._sizes is not None

    def close(self) -> None:
        """Let go of the optimizer."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._statistics.drop()
        self._loop.close()

    def scale(self) -> float | None:
        """The scaler's scale by now; None without one."""
        return None if self._scaler is None else self._scaler.get_scale()

    def skip(self, reason: str, seconds: float | None = None) -> None:
        """The update that would be next was skipped; ``seconds`` is what ``step()`` took, if it was called."""
        self._announce()
        self._statistics.drop()
        self._loop.end()
        self.last, known = self.updates, settings(self._optimizer)
        self._outbox.current = Pending(self.last, known, seconds, loss_scale=self.loss_scale, skipped=reason)

    def before(self, *, closure: bool) -> Detail | None:
        self._outbox.put_current()
        self._announce()
        self._loop.begin()
        self.loss_scale = self.scale()
        self.due = self.updates % self._every == 0
        wanted = self._statistics.before(closure=closure) if self.due else None
        self._begin = time.perf_counter()
        return wanted

    def after(self, report: StepReport) -> None:
        seconds = time.perf_counter() - self._begin
        if report.stepped:
            self._record_update(seconds, report.rules, clip=report.clip)
        else:
            self.skip(report.reason, seconds)

    def _before_torch(self, optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.before(closure=kwargs.get("closure", args[0] if args else None) is not None)

    def _after_torch(self, optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seconds = time.perf_counter() - self._begin
        reason = skip_reason(optimizer)
        if reason:
            self.skip(reason, seconds)
        else:
            self._record_update(seconds, settings(optimizer))

    def _record_update(self, seconds: float, known: Sequence[Settings | Rule], *, clip: float | None = None) -> None:
        self.last = self.updates
        if self.due:
            found = self._statistics.collect()
            loop = self._loop
            self._outbox.current = Pending(
                self.last,
                known,
                seconds,
                clip,
                self.loss_scale,
                found=found,
                uncleared=loop.uncleared,
                other_optimizer=loop.other,
            )
        self._loop.end()
        self.updates += 1

    def _announce(self) -> None:
        """Tell the sinks who is trained, if they do not know or if it has changed."""
        sizes = tuple([len(group["params"]) for group in self._optimizer.param_groups])
        if sizes != self._sizes:
            self._outbox.open(self._header(self.updates))
            self._sizes = sizes

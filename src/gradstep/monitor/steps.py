"""Observe each step of an optimizer and queue its record."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, final
from weakref import finalize

import torch

from gradstep.engines.statistics import Detail
from gradstep.engines.step import Observer, StepReport
from gradstep.monitor.loop import LoopWatcher
from gradstep.monitor.outbox import Outbox
from gradstep.monitor.pending import Pending, Settings, group_settings
from gradstep.monitor.record import Header
from gradstep.monitor.statistics import Collector, FusedCollector, TorchCollector
from gradstep.monitor.watched import LossScaler, skip_reason
from gradstep.optimizers import Optimizer
from gradstep.rules import Rule


@final
class StepRecorder(Observer):
    """Counts an optimizer's updates, and puts the recorded ones into the outbox.

    Args:
        optimizer: the optimizer to watch; it keeps this object alive until :meth:`close`.
        outbox: the queue of records; it is closed when this object is garbage collected.
        header: makes a header, given the number of the next update and the other optimizers that have stepped.
        every: record every so many updates.
        detail: the detail that a gradstep optimizer collects; other optimizers always give each parameter.
        scaler: the ``GradScaler`` of a loop without stepper.
    """

    updates: int = 0
    """The number of updates made, which is the number of the next one."""
    last: int | None = None
    """The number of the last update, made or skipped; None before the first."""
    due: bool = False
    """Whether the last update is one of those to record."""
    _group_sizes: tuple[int, ...] | None = None
    """The number of parameters in each group in the last header; None before the first step."""
    _unregistered: int = 0
    """The number of the model's parameters without optimizer in the last header."""
    _other_count: int = 0
    """The number of other optimizers that it was made with."""
    _begin: float = 0.0

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        outbox: Outbox,
        header: Callable[[int, Sequence[torch.optim.Optimizer]], Header],
        *,
        every: int,
        detail: Detail,
        scaler: LossScaler | None,
    ) -> None:
        self._optimizer, self._outbox, self._make_header = optimizer, outbox, header
        self._every, self._scaler = every, scaler
        self.loss_scale = self.read_scale()
        self._loop = LoopWatcher(optimizer)
        self._collector: Collector
        if isinstance(optimizer, Optimizer):
            self._collector = FusedCollector(optimizer, detail)
            self._handles = [optimizer.register_observer(self)]
        else:
            self._collector = TorchCollector(optimizer)
            self._handles = [
                optimizer.register_step_pre_hook(self._before_torch),
                optimizer.register_step_post_hook(self._after_torch),
            ]
        finalize(self, outbox.close).atexit = False  # the outbox has its own function for the end of the process

    @property
    def closed(self) -> bool:
        """Whether the hooks have been removed from the optimizer."""
        return not self._handles

    @property
    def has_header(self) -> bool:
        """Whether the sinks have received a header."""
        return self._group_sizes is not None

    def close(self) -> None:
        """Remove the hooks from the optimizer."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._collector.drop()
        self._loop.close()

    def read_scale(self) -> float | None:
        """Return the scaler's present scale; None without a scaler."""
        return None if self._scaler is None else self._scaler.get_scale()

    def record_skip(self, reason: str, seconds: float | None = None) -> None:
        """Queue a skipped update; ``seconds`` is the duration of ``step()``, if it was called."""
        self._send_header()
        self._collector.drop()
        self._loop.end()
        self.last, settings = self.updates, group_settings(self._optimizer)
        self._outbox.current = Pending(self.last, settings, seconds, loss_scale=self.loss_scale, skipped=reason)

    def before(self, *, closure: bool) -> Detail | None:
        self._outbox.put_current()
        self._send_header()
        self._loop.begin()
        self.loss_scale = self.read_scale()
        self.due = self.updates % self._every == 0
        detail = self._collector.before(closure=closure) if self.due else None
        self._begin = time.perf_counter()
        return detail

    def after(self, report: StepReport) -> None:
        seconds = time.perf_counter() - self._begin
        if report.stepped:
            self._record_update(seconds, report.rules, clip=report.clip)
        else:
            self.record_skip(report.reason, seconds)

    def _before_torch(self, optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.before(closure=kwargs.get("closure", args[0] if args else None) is not None)

    def _after_torch(self, optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seconds = time.perf_counter() - self._begin
        reason = skip_reason(optimizer)
        if reason:
            self.record_skip(reason, seconds)
        else:
            self._record_update(seconds, group_settings(optimizer))

    def _record_update(self, seconds: float, settings: Sequence[Settings | Rule], *, clip: float | None = None) -> None:
        self.last = self.updates
        if self.due:
            self._outbox.current = Pending(
                self.last,
                settings,
                seconds,
                clip,
                self.loss_scale,
                collected=self._collector.collect(),
                uncleared=self._loop.uncleared,
                other_optimizer=self._loop.other,
            )
        self._loop.end()
        self.updates += 1

    def _send_header(self) -> None:
        """Give the sinks a header before the first step, and again when it has changed.

        It changes with the groups, and when another optimizer is seen to train parameters that this one lacks.
        """
        sizes = tuple([len(group["params"]) for group in self._optimizer.param_groups])
        others = self._loop.others if self._unregistered else []
        if sizes == self._group_sizes and len(others) == self._other_count:
            return
        header = self._make_header(self.updates, others)
        if sizes != self._group_sizes or len(header.unregistered) != self._unregistered:
            self._outbox.open(header)
        self._group_sizes, self._other_count, self._unregistered = sizes, len(others), len(header.unregistered)

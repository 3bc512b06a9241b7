"""What a monitor does around each step of an optimizer."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, final
from weakref import finalize

import torch

from gradstep.monitor.fused_statistics import FusedStatistics
from gradstep.monitor.numbers import settings
from gradstep.monitor.outbox import Outbox
from gradstep.monitor.pending import Pending
from gradstep.monitor.record import Header
from gradstep.monitor.statistics import Statistics
from gradstep.monitor.torch_statistics import TorchStatistics
from gradstep.monitor.watched import LossScaler, own_clip, skipped
from gradstep.optimizers import Optimizer


@final
class Steps:
    """Counts an optimizer's updates, and puts what those did that are to be recorded into the outbox.

    Args:
        optimizer: hooks are registered with it; as long as they are, this lives.
        outbox: is closed when this is collected as garbage.
        header: makes one, given the number of the update that follows.
        every: record each so many updates.
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
        scaler: LossScaler | None,
    ) -> None:
        self._optimizer, self._outbox, self._header = optimizer, outbox, header
        self._every, self._scaler = every, scaler
        self.loss_scale = self.scale()
        self._statistics: Statistics
        if isinstance(optimizer, Optimizer):
            self._statistics = FusedStatistics(optimizer)
        else:
            self._statistics = TorchStatistics(optimizer)
        self._hooks = [
            optimizer.register_step_pre_hook(self._before),
            optimizer.register_step_post_hook(self._after),
        ]
        finalize(self, outbox.close).atexit = False  # at the end of the process the outbox sees to it

    @property
    def closed(self) -> bool:
        """Whether the hooks were removed."""
        return not self._hooks

    @property
    def announced(self) -> bool:
        """Whether the sinks have been told who is trained."""
        return self._sizes is not None

    def close(self) -> None:
        """Remove the hooks."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        self._statistics.drop()

    def scale(self) -> float | None:
        """The scaler's scale by now; None without one."""
        return None if self._scaler is None else self._scaler.get_scale()

    def skip(self, reason: str) -> None:
        """The update that would be next was skipped without a call of ``step()``."""
        self._announce()
        self.last, self._outbox.current = self.updates, self._new(skipped=reason)

    def _before(self, optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._outbox.put_current()
        self._announce()
        self.loss_scale = self.scale()
        self.due = self.updates % self._every == 0
        if self.due:
            self._statistics.before(closure=kwargs.get("closure", args[0] if args else None) is not None)
        self._begin = time.perf_counter()

    def _after(self, optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seconds = time.perf_counter() - self._begin
        reason, clip = skipped(optimizer), own_clip(optimizer)
        self.last = self.updates
        if reason:
            self._statistics.drop()
            self._outbox.current = self._new(seconds=seconds, skipped=reason)
            return
        if self.due:
            self._outbox.current = self._new(seconds=seconds, clip=clip, found=self._statistics.collect())
        self.updates += 1

    def _new(self, **known: Any) -> Pending:
        return Pending(self.updates, settings(self._optimizer), loss_scale=self.loss_scale, **known)

    def _announce(self) -> None:
        """Tell the sinks who is trained, if they do not know or if it has changed."""
        sizes = tuple([len(group["params"]) for group in self._optimizer.param_groups])
        if sizes != self._sizes:
            self._outbox.open(self._header(self.updates), sizes)
            self._sizes = sizes

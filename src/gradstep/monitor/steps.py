"""Observe each step of an optimizer and the loop around it, and queue its record."""

import time
from collections.abc import Callable, Sequence
from typing import Any, final
from weakref import WeakKeyDictionary, finalize, ref

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from gradstep.engines.statistics import Detail, Observer, StepReport
from gradstep.monitor.outbox import GroupSettings, Outbox, Pending, read_settings
from gradstep.monitor.record import Header
from gradstep.monitor.statistics import Collector, FusedCollector, TorchCollector, list_parameters
from gradstep.optimizers import Optimizer
from gradstep.rules import Rule

GRAD_SCALER_SKIP = "a gradient is not finite (found by GradScaler)"
"""Why an update was skipped in a loop with a ``GradScaler``."""

WATCHED = 2
"""How many gradients are checked: the smallest that are not 0. Two, since one of them may become 0 for good."""


@final
class LoopWatcher:
    """Watches the training loop around the steps of one optimizer.

    A hook on a parameter runs before a backward pass adds its gradient to ``.grad``. If ``.grad`` was not zero in every
    backward pass since the last step, the gradients were not cleared. Optimizers that step inside a step of the watched
    optimizer, or around it, are its parts or wrappers and do not count as other optimizers.

    torch's hooks for all optimizers are global; they refer to the watcher weakly.
    """

    other: str = ""
    """Class of another optimizer that has stepped some of the same parameters since the last step; empty if none."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = ref(optimizer)
        self._handles: list[Any] = []
        self._running: set[int] = set()  # ids of the other optimizers that are inside a step
        self._shares: WeakKeyDictionary[torch.optim.Optimizer, bool] = WeakKeyDictionary()
        self._in_step = False
        self._is_cleared, self._nonzero_counts = False, list[Tensor]()
        watcher_ref = ref(self)

        def before(other: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
            watcher = watcher_ref()
            if watcher is not None and not watcher._in_step and other is not watcher._optimizer():
                watcher._running.add(id(other))

        def after(other: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
            watcher = watcher_ref()
            if watcher is not None and id(other) in watcher._running:
                watcher._running.discard(id(other))
                watcher._note_step(other)

        hooks = [register_optimizer_step_pre_hook(before), register_optimizer_step_post_hook(after)]
        self._close_global = finalize(self, _remove, hooks)
        self._close_global.atexit = False

    def begin(self) -> None:
        """Begin a step of the watched optimizer; optimizers already inside a step are its wrappers."""
        self._in_step = True
        self._running.clear()
        if not self._handles:
            self._add_gradient_hooks()

    def end(self) -> None:
        """End the step, made or skipped, and start to watch the next interval."""
        self._in_step = False
        self._is_cleared, self.other = False, ""
        self._nonzero_counts.clear()

    @property
    def uncleared(self) -> bool | None:
        """Whether the last step's gradients stayed through every backward pass since; None if there was none."""
        if self._is_cleared:
            return False
        return any(bool(count) for count in self._nonzero_counts) if self._nonzero_counts else None

    @property
    def others(self) -> list[torch.optim.Optimizer]:
        """The other optimizers that have stepped, whatever parameters they have."""
        return list(self._shares)

    def close(self) -> None:
        """Remove all hooks."""
        self._close_global()
        _remove(self._handles)
        self._handles = []

    def _add_gradient_hooks(self) -> None:
        optimizer = self._optimizer()
        assert optimizer is not None
        # Without subclasses of Tensor (DTensor), whose operations may communicate with other processes.
        plain = [p for p in list_parameters(optimizer) if type(p) in {Tensor, nn.Parameter} and p.requires_grad]
        for p in sorted((p for p in plain if _has_gradient(p)), key=Tensor.numel):
            if len(self._handles) < WATCHED and bool(torch.count_nonzero(p.grad)):  # type: ignore[arg-type]
                self._handles.append(p.register_hook(self._make_gradient_hook(ref(p))))

    def _make_gradient_hook(self, parameter: ref[Tensor]) -> Callable[[Tensor], None]:
        watcher_ref = ref(self)

        def check_old_gradient(gradient: Tensor) -> None:
            watcher, p = watcher_ref(), parameter()
            if watcher is None or p is None or watcher._is_cleared:
                return
            if _has_gradient(p):
                watcher._nonzero_counts.append(torch.count_nonzero(p.grad.detach()))  # type: ignore[union-attr]
            else:
                watcher._is_cleared = True

        return check_old_gradient

    def _note_step(self, other: torch.optim.Optimizer) -> None:
        shares = self._shares.get(other)
        optimizer = self._optimizer()
        if shares is None and optimizer is not None:
            shares = not {id(p) for p in list_parameters(optimizer)}.isdisjoint(id(p) for p in list_parameters(other))
            self._shares[other] = shares
        if shares:
            self.other = type(other).__name__


def _has_gradient(p: Tensor) -> bool:
    """Return whether a parameter has a dense gradient with at least one element."""
    return p.grad is not None and p.grad.layout is torch.strided and p.grad.numel() > 0


def _remove(handles: list[Any]) -> None:
    for handle in handles:
        handle.remove()


@final
class StepRecorder(Observer):
    """Counts an optimizer's updates, and puts the recorded ones into the outbox.

    The optimizer keeps this object alive until :meth:`close`; the outbox is closed when it is garbage collected.

    Args:
        optimizer, outbox, every, scaler: the monitor's.
        header: makes a header, given the number of the next update and the other optimizers that have stepped.
        detail: the detail that a gradstep optimizer collects; other optimizers always give each parameter.
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
        scaler: torch.amp.GradScaler | None,
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
        _remove(self._handles)
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
        self.last, settings = self.updates, list(map(read_settings, self._optimizer.param_groups))
        fields = {"seconds": seconds, "loss_scale": self.loss_scale, "skipped": reason}
        self._outbox.current = Pending(self.last, settings, fields)

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
        # GradScaler sets this during a step, for optimizers that skip the update themselves (torch's fused ones).
        found_inf = vars(optimizer).get("found_inf")
        if found_inf is not None and float(found_inf) > 0:
            self.record_skip(GRAD_SCALER_SKIP, seconds)
        else:
            self._record_update(seconds, list(map(read_settings, optimizer.param_groups)))

    def _record_update(
        self, seconds: float, settings: Sequence[GroupSettings | Rule], *, clip: float | None = None
    ) -> None:
        self.last = self.updates
        if self.due:
            fields = {
                "seconds": seconds,
                "loss_scale": self.loss_scale,
                "uncleared": self._loop.uncleared,
                "other_optimizer": self._loop.other,
            }
            self._outbox.current = Pending(self.last, settings, fields, clip, collected=self._collector.collect())
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

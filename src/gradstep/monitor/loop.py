"""Find out between two steps whether gradients were cleared and whether another optimizer stepped the same weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final
from weakref import WeakKeyDictionary, finalize, ref

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from gradstep.monitor.statistics import list_parameters

WATCHED = 2
"""How many gradients are checked: the smallest that are not 0. Two, since one of them may become 0 for good."""


@final
class LoopWatcher:
    """Watches the training loop around the steps of one optimizer.

    A hook on a parameter runs before a backward pass adds its gradient to ``.grad``. If ``.grad`` was not zero in every
    backward pass since the last step, the gradients were not cleared. Optimizers that step inside a step of the watched
    optimizer, or around it, are its parts or wrappers and do not count as other optimizers.

    Args:
        optimizer: the optimizer to watch. torch's hooks for all optimizers are global; they refer to this weakly.
    """

    other: str = ""
    """Class of another optimizer that has stepped some of the same parameters since the last step; empty if none."""

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = ref(optimizer)
        self._handles: list[Any] = []
        self._running: set[int] = set()  # ids of the other optimizers that are inside a step
        self._shares: WeakKeyDictionary[Optimizer, bool] = WeakKeyDictionary()
        self._in_step = False
        self._is_cleared, self._nonzero_counts = False, list[Tensor]()
        watcher_ref = ref(self)

        def before(other: Optimizer, args: Any, kwargs: Any) -> None:
            watcher = watcher_ref()
            if watcher is not None and not watcher._in_step and other is not watcher._optimizer():
                watcher._running.add(id(other))

        def after(other: Optimizer, args: Any, kwargs: Any) -> None:
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
    def others(self) -> list[Optimizer]:
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

    def _note_step(self, other: Optimizer) -> None:
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

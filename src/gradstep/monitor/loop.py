"""What happens between two steps: whether gradients were cleared, and whether another optimizer stepped the weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final
from weakref import WeakKeyDictionary, finalize, ref

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from gradstep.monitor.statistics import parameters

WATCHED = 2
"""Parameters whose gradients are looked at: the smallest that have one that is not 0. Two, since one may die."""


@final
class Loop:
    """Watches the training loop around the steps of one optimizer.

    A hook on a parameter runs before a backward pass adds its gradient to ``.grad``. If ``.grad`` still held numbers
    in every backward pass since the last step, nobody has cleared it. Optimizers that run inside a step of the
    optimizer that is watched, or around one, are parts of it or wrappers, and do not count as others.

    Args:
        optimizer: what is watched. Hooks of all optimizers are global in torch: they hold this weakly.
    """

    other: str = ""
    """Class of an optimizer that has stepped some of the same parameters since the last step; empty if none has."""

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = ref(optimizer)
        self._handles: list[Any] = []
        self._open: set[int] = set()
        self._shares: WeakKeyDictionary[Optimizer, bool] = WeakKeyDictionary()
        self._inside = False
        self._cleared, self._left = False, list[Tensor]()
        me = ref(self)

        def before(other: Optimizer, args: Any, kwargs: Any) -> None:
            loop = me()
            if loop is not None and not loop._inside and other is not loop._optimizer():
                loop._open.add(id(other))

        def after(other: Optimizer, args: Any, kwargs: Any) -> None:
            loop = me()
            if loop is not None and id(other) in loop._open:
                loop._open.discard(id(other))
                loop._note_step(other)

        hooks = [register_optimizer_step_pre_hook(before), register_optimizer_step_post_hook(after)]
        self._close_global = finalize(self, _remove, hooks)
        self._close_global.atexit = False

    def begin(self) -> None:
        """A step of the watched optimizer begins: what surrounds it is a wrapper."""
        self._inside = True
        self._open.clear()
        if not self._handles:
            self._watch()

    def end(self) -> None:
        """The step has ended, made or skipped: the next interval begins."""
        self._inside = False
        self._cleared, self.other = False, ""
        self._left.clear()

    @property
    def uncleared(self) -> bool | None:
        """Whether the last step's gradients stayed through every backward pass since; None if there was none."""
        if self._cleared:
            return False
        return any(bool(left) for left in self._left) if self._left else None

    def close(self) -> None:
        """Remove all hooks."""
        self._close_global()
        _remove(self._handles)
        self._handles = []

    def _watch(self) -> None:
        optimizer = self._optimizer()
        assert optimizer is not None
        # Subclasses of Tensor (DTensor) are left alone: their operations may communicate.
        plain = [p for p in parameters(optimizer) if type(p) in {Tensor, nn.Parameter} and p.requires_grad]
        small = sorted((p for p in plain if _holds_numbers(p)), key=Tensor.numel)
        for p in small:
            if len(self._handles) < WATCHED and bool(torch.count_nonzero(p.grad)):  # type: ignore[arg-type]
                self._handles.append(p.register_hook(self._before_backward(ref(p))))

    def _before_backward(self, parameter: ref[Tensor]) -> Callable[[Tensor], None]:
        me = ref(self)

        def look(gradient: Tensor) -> None:
            loop, p = me(), parameter()
            if loop is None or p is None or loop._cleared:
                return
            if _holds_numbers(p):
                loop._left.append(torch.count_nonzero(p.grad.detach()))  # type: ignore[union-attr]
            else:
                loop._cleared = True

        return look

    def _note_step(self, other: Optimizer) -> None:
        shares = self._shares.get(other)
        optimizer = self._optimizer()
        if shares is None and optimizer is not None:
            shares = not {id(p) for p in parameters(optimizer)}.isdisjoint(id(p) for p in parameters(other))
            self._shares[other] = shares
        if shares:
            self.other = type(other).__name__


def _holds_numbers(p: Tensor) -> bool:
    return p.grad is not None and p.grad.layout is torch.strided and p.grad.numel() > 0


def _remove(handles: list[Any]) -> None:
    for handle in handles:
        handle.remove()

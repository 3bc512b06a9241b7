"""Optimizers inside the wrappers that trainers put around them."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch


@runtime_checkable
class Wrapper(Protocol):
    """A trainer's wrapper around an optimizer, as Lightning and Accelerate have one."""

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The optimizer inside; only its step count is the number of updates that were made."""


def innermost(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """Return the optimizer inside all wrappers of trainers.

    An object with hooks of its own was made as an optimizer and is returned itself: Lookahead moves weights too.
    """
    while "_optimizer_step_pre_hooks" not in vars(optimizer) and isinstance(optimizer, Wrapper):
        optimizer = optimizer.optimizer
    return optimizer

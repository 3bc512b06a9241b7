"""Optimizers inside what trainers put around them."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch


@runtime_checkable
class Wrapper(Protocol):
    """What a trainer puts around an optimizer, as Lightning and Accelerate do."""

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The one that steps, which knows of the updates that are made, and of no others."""


def innermost(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """The optimizer itself, without what trainers put around it.

    What was made as an optimizer in its own right, and so has hooks of its own, is one: Lookahead moves weights too.
    """
    while "_optimizer_step_pre_hooks" not in vars(optimizer) and isinstance(optimizer, Wrapper):
        optimizer = optimizer.optimizer
    return optimizer

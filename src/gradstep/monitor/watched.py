"""What a monitor is told by others: the outcome of a stepper's window, and the stepper itself."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from gradstep.optimizers import Optimizer


class Outcome(Protocol):
    """What became of an update: :class:`gradstep.UpdateOutcome`, or anything that tells the same."""

    @property
    def stepped(self) -> bool:
        """False if the update was skipped."""

    @property
    def loss(self) -> float:
        """The loss."""

    @property
    def grad_norm(self) -> float:
        """The global 2-norm of the gradient before clipping, without any scale."""

    @property
    def loss_scale(self) -> float:
        """What the loss was multiplied by."""

    @property
    def reason(self) -> str:
        """Why the update was skipped, else empty."""

    @property
    def parameter(self) -> str | None:
        """The first parameter whose gradient was not finite."""

    @property
    def micro_batches(self) -> int:
        """How many the window held."""


@runtime_checkable
class Window(Protocol):
    """What owns a window and steps an optimizer: :class:`gradstep.Stepper`."""

    @property
    def model(self) -> nn.Module:
        """What is trained."""

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """What is stepped."""

    @property
    def schedule(self) -> Any:
        """What moves the learning rate."""


class LossScaler(Protocol):
    """Of ``torch.amp.GradScaler``, what a monitor asks."""

    def get_scale(self) -> float:
        """What the loss is multiplied by."""


def skipped(optimizer: torch.optim.Optimizer) -> str:
    """Why the step that was called changed nothing; empty if it did."""
    if isinstance(optimizer, Optimizer):
        report = optimizer.last_step
        return "" if report is None or report.stepped else report.reason
    # Set by GradScaler for the length of a step, for optimizers that look at it themselves (torch's fused ones).
    found = vars(optimizer).get("found_inf")
    return "a gradient is not finite (found by GradScaler)" if found is not None and float(found) > 0 else ""


def own_clip(optimizer: torch.optim.Optimizer) -> float | None:
    """What the step itself clipped by, if that is known."""
    if isinstance(optimizer, Optimizer) and optimizer.last_step is not None:
        return optimizer.last_step.clip
    return None

"""What a monitor is told by others: the outcome of a stepper's window, and the stepper itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from gradstep.schedules import Schedule


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

    @property
    def accumulate(self) -> int:
        """Micro-batches in a full window."""

    @property
    def precision(self) -> str:
        """Of the forward pass."""


@runtime_checkable
class Scheduled(Protocol):
    """What drives an optimizer by schedules: :class:`gradstep.Scheduler`."""

    @property
    def lr_schedules(self) -> Sequence[Schedule | None]:
        """Of the learning rate of each group."""


def lr_schedules(given: Any) -> tuple[Schedule, ...]:
    """The schedules of the learning rate that are known of a schedule, of what drives one, or of anything else."""
    if isinstance(given, Schedule):
        return (given,)
    return tuple(filter(None, given.lr_schedules)) if isinstance(given, Scheduled) else ()


def length(schedules: Sequence[Schedule]) -> int | None:
    """When the last of them ends; None if one has no end, or if there are none.

    >>> from gradstep.schedules import constant, cosine
    >>> length([cosine(0.1, updates=100), cosine(0.1, updates=80)]), length([constant(0.1)]), length([])
    (100, None, None)
    """
    ends = [schedule.updates for schedule in schedules]
    known = [end for end in ends if end is not None]
    return max(known) if known and len(known) == len(ends) else None


def words(given: Any) -> str:
    """What is known of a schedule."""
    if given is None or isinstance(given, str):
        return given or ""
    return "; ".join(dict.fromkeys(map(str, lr_schedules(given)))) or type(given).__name__


class LossScaler(Protocol):
    """Of ``torch.amp.GradScaler``, what a monitor asks."""

    def get_scale(self) -> float:
        """What the loss is multiplied by."""


def skip_reason(optimizer: torch.optim.Optimizer) -> str:
    """Why the step of a torch optimizer that was called changed nothing; empty if it did."""
    # Set by GradScaler for the length of a step, for optimizers that look at it themselves (torch's fused ones).
    found = vars(optimizer).get("found_inf")
    return "a gradient is not finite (found by GradScaler)" if found is not None and float(found) > 0 else ""

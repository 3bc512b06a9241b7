"""The interfaces that a monitor uses: a stepper, its outcome, a scheduler and a loss scaler."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from gradstep.schedules import Schedule


class Outcome(Protocol):
    """The outcome of an update: :class:`gradstep.UpdateOutcome`, or an object with the same attributes."""

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
        """The factor that multiplied the loss."""

    @property
    def reason(self) -> str:
        """Why the update was skipped, else empty."""

    @property
    def parameter(self) -> str | None:
        """The first parameter whose gradient was not finite."""

    @property
    def micro_batches(self) -> int:
        """Number of micro-batches in the window."""


@runtime_checkable
class StepperLike(Protocol):
    """An object that steps an optimizer at the end of each window: :class:`gradstep.Stepper`."""

    @property
    def model(self) -> nn.Module:
        """The model that is trained."""

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The optimizer that is stepped."""

    @property
    def schedule(self) -> Any:
        """The scheduler of the learning rate."""

    @property
    def accumulate(self) -> int:
        """Micro-batches in a full window."""

    @property
    def precision(self) -> str:
        """Precision of the forward pass."""


@runtime_checkable
class HasLrSchedules(Protocol):
    """A scheduler made of pure schedules: :class:`gradstep.Scheduler`."""

    @property
    def lr_schedules(self) -> Sequence[Schedule | None]:
        """The learning-rate schedule of each group."""


def lr_schedules(driver: Any) -> tuple[Schedule, ...]:
    """Return the learning-rate schedules of a schedule or scheduler; empty for other objects."""
    if isinstance(driver, Schedule):
        return (driver,)
    return tuple(filter(None, driver.lr_schedules)) if isinstance(driver, HasLrSchedules) else ()


def schedule_length(schedules: Sequence[Schedule]) -> int | None:
    """Return the update at which the last schedule ends; None if one has no end, or without schedules.

    >>> from gradstep.schedules import constant, cosine
    >>> schedule_length([cosine(0.1, updates=100), cosine(0.1, updates=80)])
    100
    >>> schedule_length([constant(0.1)]), schedule_length([])
    (None, None)
    """
    ends = [schedule.updates for schedule in schedules]
    finite = [end for end in ends if end is not None]
    return max(finite, default=None) if len(finite) == len(ends) else None


def describe_schedule(driver: Any) -> str:
    """Return the text of a schedule or scheduler, or the name of its class."""
    if driver is None or isinstance(driver, str):
        return driver or ""
    return "; ".join(dict.fromkeys(map(str, lr_schedules(driver)))) or type(driver).__name__


class LossScaler(Protocol):
    """The part of ``torch.amp.GradScaler`` that a monitor uses."""

    def get_scale(self) -> float:
        """Return the factor that multiplies the loss."""


def skip_reason(optimizer: torch.optim.Optimizer) -> str:
    """Return why a call of a torch optimizer's ``step()`` changed nothing; empty if it made an update."""
    # GradScaler sets this during a step, for optimizers that skip the update themselves (torch's fused ones).
    found_inf = vars(optimizer).get("found_inf")
    return "a gradient is not finite (found by GradScaler)" if found_inf is not None and float(found_inf) > 0 else ""

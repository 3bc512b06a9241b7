"""What advances the schedule: any LRScheduler, or a pure schedule made into one."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import torch
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from gradstep.optimizers.wrapped import innermost
from gradstep.schedules import Schedule
from gradstep.training.scheduler import Scheduler


@runtime_checkable
class Driver(Protocol):
    """Moves the settings of an optimizer from update to update, as torch's LRSchedulers and their wrappers do."""

    def step(self) -> None:
        """Go to the next update."""

    def state_dict(self) -> dict[str, Any]:
        """Where it is."""

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        """Go there."""


def driver_of(schedule: Schedule | Driver | None, optimizer: torch.optim.Optimizer) -> Driver | None:
    """A schedule as an object that can be advanced and saved.

    Raises:
        TypeError: neither a schedule nor a scheduler; or one that needs a metric.
        ValueError: a scheduler of another optimizer, or one schedule for groups whose learning rates differ.
    """
    if isinstance(schedule, Schedule):
        rates = sorted({float(group["lr"]) for group in optimizer.param_groups})
        if len(rates) > 1:
            raise ValueError(
                f"the groups have learning rates from {rates[0]:g} to {rates[-1]:g}, which one schedule would make "
                "equal: give schedule=gradstep.Scheduler(optimizer, lr_factor=...), which keeps their ratios, or "
                "lr=[...] with a schedule for each"
            )
        return Scheduler(optimizer, lr=schedule)
    if isinstance(schedule, ReduceLROnPlateau):
        raise TypeError("ReduceLROnPlateau needs a metric, which an update does not have: step it yourself")
    if isinstance(schedule, LRScheduler) and innermost(schedule.optimizer) is not innermost(optimizer):
        raise ValueError("the schedule was made for another optimizer: make it for the stepper's")
    if schedule is None or isinstance(schedule, Driver):
        return schedule
    raise TypeError(
        f"schedule must be one of gradstep.schedules, a gradstep.Scheduler or an LRScheduler of torch, not {schedule!r}"
    )

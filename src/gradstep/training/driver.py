"""What advances the schedule: any LRScheduler, or a pure schedule made into one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch
from torch.optim.lr_scheduler import (
    ConstantLR,
    ExponentialLR,
    LinearLR,
    LRScheduler,
    MultiStepLR,
    PolynomialLR,
    ReduceLROnPlateau,
    StepLR,
)

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


Schedules: TypeAlias = Schedule | Driver | Sequence[Schedule | Driver | None] | None
"""What a stepper takes: one schedule, or one or None for each of its optimizers."""


def drivers_of(given: Schedules, optimizers: Sequence[torch.optim.Optimizer], update: int) -> tuple[Driver | None, ...]:
    """What advances the schedule of each optimizer.

    Args:
        given: one pure schedule, which all optimizers share; one scheduler, for a single optimizer; or a list.
        optimizers: whose settings are driven.
        update: the number of the update that comes next, at which a pure schedule goes on.

    Raises:
        TypeError: neither a schedule nor a scheduler; or one that needs a metric.
        ValueError: a scheduler of another optimizer, one schedule for groups whose learning rates differ, or not as
            many schedules as optimizers.
    """
    if given is None or isinstance(given, Schedule):
        if isinstance(given, Schedule):
            _check_equal_rates([group for optimizer in optimizers for group in optimizer.param_groups])
        each: Sequence[Any] = [given] * len(optimizers)
    elif isinstance(given, (list, tuple)):
        each = given
    elif len(optimizers) == 1:
        each = [given]
    else:
        raise ValueError(
            f"schedule is one {type(given).__name__}, and there are {len(optimizers)} optimizers: give a list with a "
            "schedule, or None, for each of them"
        )
    if len(each) != len(optimizers):
        raise ValueError(f"schedule has {len(each)} entries, and there are {len(optimizers)} optimizers: give one each")
    return tuple(_driver_of(one, optimizer, update) for one, optimizer in zip(each, optimizers, strict=True))


def _driver_of(schedule: Any, optimizer: torch.optim.Optimizer, update: int) -> Driver | None:
    """A schedule as an object that can be advanced and saved."""
    if isinstance(schedule, Schedule):
        _check_equal_rates(optimizer.param_groups)
        made = Scheduler(optimizer, lr=schedule)
        if update:
            made.load_state_dict({"last_epoch": update})
        return made
    if isinstance(schedule, ReduceLROnPlateau):
        raise TypeError("ReduceLROnPlateau needs a metric, which an update does not have: step it yourself")
    if isinstance(schedule, LRScheduler) and innermost(schedule.optimizer) is not innermost(optimizer):
        raise ValueError("the schedule was made for another optimizer: make it for the stepper's")
    if schedule is None or isinstance(schedule, Driver):
        return schedule
    raise TypeError(
        f"schedule must be one of gradstep.schedules, a gradstep.Scheduler or an LRScheduler of torch, not {schedule!r}"
    )


def _check_equal_rates(groups: Sequence[Mapping[str, Any]]) -> None:
    rates = sorted({float(group["lr"]) for group in groups})
    if len(rates) > 1:
        raise ValueError(
            f"the groups have learning rates from {rates[0]:g} to {rates[-1]:g}, which one schedule would make "
            "equal: give schedule=gradstep.Scheduler(optimizer, lr_factor=...), which keeps their ratios, or "
            "lr=[...] with a schedule for each; of several optimizers, a list with a schedule for each"
        )


_MULTIPLY = (StepLR, MultiStepLR, ExponentialLR, ConstantLR, LinearLR, PolynomialLR)
"""Schedulers of torch that multiply the learning rate that each group has, whenever it was added."""


def cover_new_groups(driver: Driver | None) -> None:
    """Let a schedule drive groups that were added after it was made.

    Raises:
        ValueError: it cannot, and would fail after the weights have moved.
    """
    if isinstance(driver, Scheduler):
        driver.cover_new_groups()
    elif isinstance(driver, LRScheduler) and not isinstance(driver, _MULTIPLY):
        made_for, groups = len(driver.base_lrs), len(driver.optimizer.param_groups)
        if made_for != groups:
            raise ValueError(
                f"the optimizer has {groups} parameter groups, and its {type(driver).__name__} was made for "
                f"{made_for}, which torch does not extend: replace it (stepper.schedule = ..., with "
                "one of gradstep.schedules or a scheduler made for all groups)"
            )

"""Turn what a user passes as ``schedule`` into objects that are stepped once per update."""

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
    """An object that sets an optimizer's settings for each update, as torch's LRSchedulers and their wrappers do."""

    def step(self) -> None:
        """Set the values of the next update."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a checkpoint."""

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        """Load a state of :meth:`state_dict`."""


Schedules: TypeAlias = Schedule | Driver | Sequence[Schedule | Driver | None] | None
"""The argument ``schedule`` of a stepper: one schedule, or one or None for each of its optimizers."""


def make_drivers(
    schedule: Schedules, optimizers: Sequence[torch.optim.Optimizer], update: int
) -> tuple[Driver | None, ...]:
    """Make the driver of each optimizer; None where it has no schedule.

    Args:
        schedule: one pure schedule, which all optimizers share; one scheduler, for a single optimizer; or a list.
        optimizers: the optimizers to drive.
        update: the number of the next update, at which a pure schedule continues.

    Raises:
        TypeError: neither a schedule nor a scheduler; or one that needs a metric.
        ValueError: a scheduler of another optimizer, one schedule for groups with different learning rates, or not as
            many schedules as optimizers.
    """
    if schedule is None or isinstance(schedule, Schedule):
        if isinstance(schedule, Schedule):
            _check_equal_rates([group for optimizer in optimizers for group in optimizer.param_groups])
        each: Sequence[Any] = [schedule] * len(optimizers)
    elif isinstance(schedule, (list, tuple)):
        each = schedule
    elif len(optimizers) == 1:
        each = [schedule]
    else:
        raise ValueError(
            f"schedule is one {type(schedule).__name__}, and there are {len(optimizers)} optimizers: give a list with "
            "a schedule, or None, for each of them"
        )
    if len(each) != len(optimizers):
        raise ValueError(f"schedule has {len(each)} entries, and there are {len(optimizers)} optimizers: give one each")
    return tuple(_make_driver(one, optimizer, update) for one, optimizer in zip(each, optimizers, strict=True))


def _make_driver(schedule: Any, optimizer: torch.optim.Optimizer, update: int) -> Driver | None:
    if isinstance(schedule, Schedule):
        _check_equal_rates(optimizer.param_groups)
        scheduler = Scheduler(optimizer, lr=schedule)
        if update:
            scheduler.load_state_dict({"last_epoch": update})
        return scheduler
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
"""Schedulers of torch that multiply each group's present learning rate, so that added groups need nothing."""


def cover_new_groups(driver: Driver | None) -> None:
    """Let a schedule also drive the groups that were added after the schedule was made.

    Raises:
        ValueError: the schedule cannot; its next ``step()`` would fail after the weights have been updated.
    """
    if isinstance(driver, Scheduler):
        driver.cover_new_groups()
    elif isinstance(driver, LRScheduler) and not isinstance(driver, _MULTIPLY):
        covered, groups = len(driver.base_lrs), len(driver.optimizer.param_groups)
        if covered != groups:
            raise ValueError(
                f"the optimizer has {groups} parameter groups, and its {type(driver).__name__} was made for "
                f"{covered}, which torch does not extend: replace it (stepper.schedule = ..., with "
                "one of gradstep.schedules or a scheduler made for all groups)"
            )

"""Drive settings of an optimizer's groups by pure schedules: :class:`gradstep.Scheduler`."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, final

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from gradstep.schedules import Schedule
from gradstep.schedules.checks import count

PerGroup: TypeAlias = Schedule | Sequence[Schedule | None] | Mapping[str, Schedule | None]
"""One schedule for all groups, one for each in their order, or one for each by its ``"name"``; None leaves it alone."""


@final
@dataclass(frozen=True)
class Drive:
    """A setting of an optimizer and the schedules that drive it.

    Attributes:
        setting: its name in the groups.
        relative: whether the schedules are factors of the initial value.
        given: one schedule for all groups, those added later included; or one schedule or None for each group.
    """

    setting: str
    relative: bool
    given: Schedule | tuple[Schedule | None, ...]

    def schedules(self, optimizer: Optimizer) -> tuple[Schedule | None, ...]:
        """The schedule of every group; None where the setting is left alone.

        Raises:
            ValueError: the groups are not as many as the schedules given one by one.
        """
        count = len(optimizer.param_groups)
        if isinstance(self.given, Schedule):
            return (self.given,) * count
        if count != len(self.given):
            raise ValueError(
                f"the optimizer has {count} parameter groups, but {self.setting} has a schedule for each of "
                f"{len(self.given)}: make a Scheduler with {count} of them and load the old one's state_dict(); a "
                "single schedule for all groups also takes groups that are added later"
            )
        return self.given

    def check(self, optimizer: Optimizer) -> None:
        """Refuse a setting that a group does not have."""
        kinds = ("momentum", "betas") if self.setting == "momentum" else (self.setting,)
        for index, (group, schedule) in enumerate(zip(optimizer.param_groups, self.schedules(optimizer), strict=True)):
            if schedule is not None and not any(kind in group for kind in kinds):
                raise ValueError(f"{type(optimizer).__name__} has no {' or '.join(kinds)} to drive (group {index})")

    def check_joining(self, optimizer: Optimizer, first: int) -> None:
        """Refuse a group that one schedule would give another learning rate than it was added with.

        Args:
            optimizer: whose groups.
            first: index of the first group that was added.
        """
        if self.setting != "lr" or self.relative or not isinstance(self.given, Schedule):
            return
        groups = optimizer.param_groups
        usual = {float(optimizer.defaults["lr"])}
        usual |= {float(group[key]) for group in groups[:first] for key in ("lr", "initial_lr") if key in group}
        for index, group in enumerate(groups[first:], start=first):
            if float(group["lr"]) not in usual:
                raise ValueError(
                    f"group {index} was added with lr={float(group['lr']):g}, and the one schedule of all groups would "
                    "make it the others': add it without 'lr' to follow them, or drive the groups with "
                    "gradstep.Scheduler(optimizer, lr_factor=...), which keeps their ratios, or with lr=[...]"
                )

    def values(self, optimizer: Optimizer, update: int) -> list[float | None]:
        """The value of every group at an update; None where it is left alone."""
        pairs = zip(optimizer.param_groups, self.schedules(optimizer), strict=True)
        return [None if schedule is None else self._unit(group) * schedule(update) for group, schedule in pairs]

    def set(self, optimizer: Optimizer, update: int) -> None:
        """Give every group its value of an update."""
        for group, value in zip(optimizer.param_groups, self.values(optimizer, update)):
            if value is not None:
                _assign(group, self.setting, value)

    def mismatches(self, planned: int) -> list[str]:
        """What to say of each schedule that does not end with the run."""
        messages = []
        for schedule in (self.given,) if isinstance(self.given, Schedule) else self.given:
            if schedule is None or schedule.updates is None or schedule.updates == planned:
                continue
            end = schedule.updates
            if planned < end:
                effect = f"the run ends at {schedule(planned - 1):.4g}, not yet at {schedule(end):.4g}"
            else:
                effect = f"from update {end:,} on, {schedule(end):.4g} is used"
            messages.append(
                f"the schedule of {self.setting} is {end:,} updates long, but {planned:,} updates are planned: {effect}"
            )
        return messages

    def _unit(self, group: dict[str, Any]) -> float:
        if not self.relative:
            return 1.0
        # Kept in the group, where torch keeps it too: so it comes back with the optimizer's checkpoint.
        return float(group.setdefault(f"initial_{self.setting}", copy_value(group[self.setting])))


def per_group(name: str, given: PerGroup, optimizer: Optimizer) -> Schedule | tuple[Schedule | None, ...]:
    """One schedule for all groups, or one schedule or None for each of them."""
    groups = optimizer.param_groups
    if isinstance(given, Schedule):
        return given
    if isinstance(given, Mapping):
        names = [group.get("name") for group in groups]
        if set(given) != set(names):
            raise ValueError(
                f"{name}= is given for the groups {list(given)}, but the optimizer's are named {names}: name every "
                "group, with None for one to leave as it is"
            )
        chosen = [given[group["name"]] for group in groups]
    elif isinstance(given, (list, tuple)):
        chosen = list(given)
        if len(chosen) != len(groups):
            raise ValueError(
                f"{name}= has {len(chosen)} schedules, but the optimizer has {len(groups)} parameter groups"
            )
    else:
        raise TypeError(f"{name}= takes a schedule, a list or a dictionary of them, but got {given!r}{_REMEDY}")
    for schedule in chosen:
        if not (schedule is None or isinstance(schedule, Schedule)):
            raise TypeError(f"{name}= takes schedules from gradstep.schedules, but got {schedule!r}{_REMEDY}")
    return tuple(chosen)


_REMEDY = " (a fixed value is gradstep.schedules.constant(value))"


def _assign(group: dict[str, Any], setting: str, value: float) -> None:
    """Set one setting of a group; a tensor is filled, since a compiled or captured step holds on to it."""
    if setting == "momentum" and "betas" in group:
        first, *others = group["betas"]
        if isinstance(first, Tensor):
            first.fill_(value)
        else:
            group["betas"] = (value, *others)
    elif isinstance(group[setting], Tensor):
        group[setting].fill_(value)
    else:
        group[setting] = value


def copy_value(value: float | Tensor) -> float | Tensor:
    """Return a copy of a tensor, or the number itself."""
    return value.clone() if isinstance(value, Tensor) else value


@final
class Scheduler(LRScheduler):
    """Drives learning rate, momentum or weight decay of an optimizer by schedules, one value per update.

    It is a ``torch.optim.lr_scheduler.LRScheduler``, and works with any optimizer of gradstep or torch. Constructing it
    sets the values of update 0; every ``step()`` sets those of the next update, so call it once after each update that
    was made, and not after one that was skipped. A setting that is a tensor is filled in place, as torch does it.

    Resuming needs one integer. Construct the optimizer and the scheduler as before and load both, in any order: the
    values are then those of the update that comes next, with no jump.

    Args:
        optimizer: whose ``param_groups`` are driven.
        lr: the learning rate itself. One schedule for all groups, those added later included; a list with one for
            each group; or a dictionary by the ``"name"`` of the groups, naming every one. None in a list or
            dictionary leaves a group as it is.
        lr_factor: instead of ``lr``: what each group's initial learning rate is multiplied by, as in ``LambdaLR`` and
            in transformers; keeps the ratios between groups.
        momentum: ``momentum``, or the first of ``betas``.
        weight_decay: the weight decay itself.
        weight_decay_factor: instead of ``weight_decay``: what each group's initial decay is multiplied by; a group
            without decay stays without.
        planned_updates: how many updates the run will make. A schedule of another length is then warned of.

    Raises:
        TypeError: something that is not an optimizer, or not a schedule.
        ValueError: nothing to drive, both a value and a factor, a list or dictionary that does not match the groups,
            or a setting that the optimizer does not have. The optimizer is then unchanged.

    Warns:
        UserWarning: ``planned_updates`` and the length of a schedule differ.

    Example:
        >>> import torch, gradstep
        >>> from gradstep.schedules import cosine, warmup
        >>> p = torch.zeros(3, requires_grad=True)
        >>> optimizer = gradstep.AdamW([p])
        >>> lr = warmup(updates=2, to=0.1).then(cosine(0.1, updates=8))
        >>> scheduler = gradstep.Scheduler(optimizer, lr=lr, planned_updates=10)
        >>> for _ in range(3):
        ...     p.grad = torch.ones(3)
        ...     optimizer.step()
        ...     scheduler.step()
        >>> round(scheduler.get_last_lr()[0], 4), scheduler.state_dict()
        (0.0962, {'last_epoch': 3})
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        lr: PerGroup | None = None,
        *,
        lr_factor: PerGroup | None = None,
        momentum: PerGroup | None = None,
        weight_decay: PerGroup | None = None,
        weight_decay_factor: PerGroup | None = None,
        planned_updates: int | None = None,
    ) -> None:
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise TypeError(f"Scheduler drives a torch.optim.Optimizer, but got {type(optimizer).__name__}")
        given = (
            ("lr", lr, False),
            ("lr_factor", lr_factor, True),
            ("momentum", momentum, False),
            ("weight_decay", weight_decay, False),
            ("weight_decay_factor", weight_decay_factor, True),
        )
        self._drives = [
            Drive(name.removesuffix("_factor"), relative, per_group(name, schedules, optimizer))
            for name, schedules, relative in given
            if schedules is not None
        ]
        settings = [drive.setting for drive in self._drives]
        if not settings:
            raise ValueError("Scheduler has nothing to drive: give lr=, lr_factor=, momentum= or weight_decay=")
        for setting in settings:
            if settings.count(setting) > 1:
                raise ValueError(f"give {setting}= or {setting}_factor=, not both")
        for drive in self._drives:
            drive.check(optimizer)
        if planned_updates is not None:
            planned = count("planned_updates", planned_updates, least=1)
            for message in dict.fromkeys(m for drive in self._drives for m in drive.mismatches(planned)):
                warnings.warn(message, stacklevel=2)
        self._covered = len(optimizer.param_groups)
        super().__init__(optimizer)

    def step(self, epoch: int | None = None) -> None:
        """Set the values of the next update; ``epoch`` is torch's deprecated way to jump to one.

        Raises:
            ValueError: a group was added that cannot follow; see :meth:`cover_new_groups`. Nothing was changed.
        """
        self.cover_new_groups()
        super().step(epoch)
        self._set_all()

    def cover_new_groups(self) -> None:
        """Give groups that were added since the values of the update that comes next.

        :class:`gradstep.Stepper` and :meth:`step` call it by themselves. In a loop of your own, call it after
        ``optimizer.add_param_group``: the next update then uses the scheduled values already.

        Raises:
            ValueError: schedules were given group by group, the group lacks a setting, or it was added with a
                learning rate of its own, which one schedule would overwrite. Nothing was changed.
        """
        groups = self.optimizer.param_groups
        if len(groups) == self._covered:
            return
        for drive in self._drives:
            drive.check(self.optimizer)
            drive.check_joining(self.optimizer, self._covered)
        for group in groups:
            group.setdefault("initial_lr", copy_value(group["lr"]))
        self.base_lrs = [copy_value(group["initial_lr"]) for group in groups]
        self._set_all()
        self._last_lr = [copy_value(group["lr"]) for group in groups]
        self._covered = len(groups)

    def get_lr(self) -> list[float | Tensor]:
        """The learning rates of the update that comes next, one per group."""
        lrs: list[float | Tensor] = [copy_value(group["lr"]) for group in self.optimizer.param_groups]
        for drive in self._drives:
            if drive.setting == "lr":
                values = drive.values(self.optimizer, self.last_epoch)
                lrs = [lr if value is None else value for lr, value in zip(lrs, values)]
        return lrs

    def state_dict(self) -> dict[str, Any]:
        """The number of updates done, under torch's name for it."""
        return {"last_epoch": self.last_epoch}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on after so many updates, and set the values of the next one.

        Args:
            state_dict: what :meth:`state_dict` gave; of torch's schedulers, ``last_epoch`` is read as well.

        Raises:
            ValueError: there is no ``last_epoch``, or it is below 0.
        """
        if "last_epoch" not in state_dict:
            raise ValueError(
                f"a scheduler's state holds 'last_epoch', the number of updates done, but this one {sorted(state_dict)}"
            )
        update = count("last_epoch", state_dict["last_epoch"])
        self.cover_new_groups()
        self.last_epoch = update
        self._step_count = self.last_epoch + 1  # torch's own count, by which it warns of a first step out of order
        self._set_all()
        self.base_lrs = [copy_value(group["initial_lr"]) for group in self.optimizer.param_groups]
        self._last_lr = [copy_value(group["lr"]) for group in self.optimizer.param_groups]

    @property
    def lr_schedules(self) -> tuple[Schedule | None, ...]:
        """What drives the learning rate of each group (itself, or its factor); None where nothing does."""
        every = [drive.schedules(self.optimizer) for drive in self._drives if drive.setting == "lr"]
        return every[0] if every else (None,) * len(self.optimizer.param_groups)

    def _set_all(self) -> None:
        for drive in self._drives:
            drive.set(self.optimizer, self.last_epoch)

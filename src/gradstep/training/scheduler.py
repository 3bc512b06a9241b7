"""Drive settings of an optimizer's groups by schedules: :class:`gradstep.Scheduler`."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, final

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from gradstep.schedules import Schedule
from gradstep.schedules.base import count

PerGroup: TypeAlias = Schedule | Sequence[Schedule | None] | Mapping[str, Schedule | None]
"""One schedule for all groups, a sequence in their order, or a mapping by ``"name"``; None leaves a group unchanged."""


@final
@dataclass(frozen=True)
class Drive:
    """A setting of an optimizer and its schedules."""

    setting: str  # the name of the setting in the groups
    relative: bool  # whether the schedules are factors of the initial value
    # one schedule for all groups, those added later included; or one schedule or None for each group
    source: Schedule | tuple[Schedule | None, ...]

    def schedules(self, optimizer: Optimizer) -> tuple[Schedule | None, ...]:
        """Return the schedule of every group; None where the setting stays unchanged.

        Raises:
            ValueError: there is one schedule per group, and the number of groups has changed.
        """
        count = len(optimizer.param_groups)
        if isinstance(self.source, Schedule):
            return (self.source,) * count
        if count != len(self.source):
            raise ValueError(
                f"the optimizer has {count} parameter groups, but {self.setting} has a schedule for each of "
                f"{len(self.source)}: make a Scheduler with {count} of them and load the old one's state_dict(); a "
                "single schedule for all groups also takes groups that are added later"
            )
        return self.source

    def check(self, optimizer: Optimizer) -> None:
        """Raise ValueError if a driven group lacks the setting, or if one rate would replace those of several rules."""
        kinds = ("momentum", "betas") if self.setting == "momentum" else (self.setting,)
        for index, (group, schedule) in enumerate(zip(optimizer.param_groups, self.schedules(optimizer), strict=True)):
            if schedule is not None and not any(kind in group for kind in kinds):
                name = group.get("rule", type(optimizer).__name__)
                raise ValueError(f"{name} has no {' or '.join(kinds)} to drive (group {index})")
        if self.setting == "lr" and not self.relative and isinstance(self.source, Schedule):
            rates = {(group.get("rule"), float(group["lr"])) for group in optimizer.param_groups}
            if len({rule for rule, _ in rates}) > 1 < len({rate for _, rate in rates}):
                raise ValueError(
                    "the groups have several rules, and one schedule would give the learning rate of one rule to the "
                    "others: give lr_factor=, which keeps their ratios, or lr=[...] with a schedule for each group"
                )

    def check_new_groups(self, optimizer: Optimizer, first: int) -> None:
        """Raise ValueError if one schedule would overwrite the learning rate of an added group, from ``first`` on."""
        if self.setting != "lr" or self.relative or not isinstance(self.source, Schedule):
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
        """Return the value of every group at an update; None where it stays unchanged."""
        pairs = zip(optimizer.param_groups, self.schedules(optimizer), strict=True)
        return [None if schedule is None else self._base(group) * schedule(update) for group, schedule in pairs]

    def mismatches(self, planned: int) -> list[str]:
        """Return a warning for each schedule with another length than the run."""
        messages = []
        for schedule in (self.source,) if isinstance(self.source, Schedule) else self.source:
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

    def _base(self, group: dict[str, Any]) -> float:
        if not self.relative:
            return 1.0
        # Stored in the group, as torch does, so that it is part of the optimizer's checkpoint.
        return float(group.setdefault(f"initial_{self.setting}", copy_value(group[self.setting])))


def resolve_groups(name: str, source: PerGroup, optimizer: Optimizer) -> Schedule | tuple[Schedule | None, ...]:
    """Check an argument of :class:`Scheduler`, and return one schedule for all groups or a tuple in their order."""
    groups = optimizer.param_groups
    if isinstance(source, Schedule):
        return source
    if isinstance(source, Mapping):
        names = [group.get("name") for group in groups]
        if set(source) != set(names):
            raise ValueError(
                f"{name}= is given for the groups {list(source)}, but the optimizer's are named {names}: name every "
                "group, with None for one to leave as it is"
            )
        schedules = [source[group["name"]] for group in groups]
    elif isinstance(source, (list, tuple)):
        schedules = list(source)
        if len(schedules) != len(groups):
            raise ValueError(
                f"{name}= has {len(schedules)} schedules, but the optimizer has {len(groups)} parameter groups"
            )
    else:
        raise TypeError(f"{name}= takes a schedule, a list or a dictionary of them, but got {source!r}{_REMEDY}")
    for schedule in schedules:
        if not (schedule is None or isinstance(schedule, Schedule)):
            raise TypeError(f"{name}= takes schedules from gradstep.schedules, but got {schedule!r}{_REMEDY}")
    return tuple(schedules)


_REMEDY = " (a fixed value is gradstep.schedules.constant(value))"


def _assign(group: dict[str, Any], setting: str, value: float) -> None:
    """Set one setting of a group; a tensor is filled in place, since a compiled or captured step refers to it."""
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
    """Return the number, or a copy of the 0-d tensor."""
    return value.clone() if isinstance(value, Tensor) else value


@final
class Scheduler(LRScheduler):
    """Drives learning rate, momentum or weight decay of an optimizer by schedules, one value per update.

    It is a ``torch.optim.lr_scheduler.LRScheduler``, and works with any optimizer of gradstep or torch. Its constructor
    sets the values of update 0; every ``step()`` sets those of the next update: call it once after each update, but not
    after a skipped one. A setting that is a tensor is filled in place, as torch does.

    Its state is one integer. To resume, construct the optimizer and the scheduler as before and load both, in any
    order: the next update then has its scheduled values, without a jump.

    Args:
        optimizer: the optimizer with the ``param_groups`` to drive.
        lr: the learning rate itself. One schedule for all groups, those added later included; a list with one for
            each group; or a dictionary with the ``"name"`` of every group. None in a list or dictionary leaves a group
            unchanged.
        lr_factor: instead of ``lr``: the factor of each group's initial learning rate, as in ``LambdaLR`` and in
            transformers; keeps the ratios between groups.
        momentum: ``momentum``, or the first of ``betas``.
        weight_decay: the weight decay itself.
        weight_decay_factor: instead of ``weight_decay``: the factor of each group's initial decay; a group without
            decay stays without.
        planned_updates: how many updates the run will make; schedules of another length then give a warning.

    Raises:
        TypeError: not an optimizer, or not a schedule.
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
        arguments = (
            ("lr", lr, False),
            ("lr_factor", lr_factor, True),
            ("momentum", momentum, False),
            ("weight_decay", weight_decay, False),
            ("weight_decay_factor", weight_decay_factor, True),
        )
        self._drives = [
            Drive(name.removesuffix("_factor"), relative, resolve_groups(name, schedules, optimizer))
            for name, schedules, relative in arguments
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
        self._group_count = len(optimizer.param_groups)
        super().__init__(optimizer)

    def step(self, epoch: int | None = None) -> None:
        """Set the values of the next update; ``epoch`` is torch's deprecated way to jump to an update.

        Raises:
            ValueError: a group was added that cannot be driven; see :meth:`cover_new_groups`. Nothing was changed.
        """
        self.cover_new_groups()
        super().step(epoch)
        self._set_all()

    def cover_new_groups(self) -> None:
        """Set the values of the next update in groups that were added since the last step.

        :class:`gradstep.Stepper` and :meth:`step` call it. In your own loop, call it after
        ``optimizer.add_param_group``, so that the next update already uses the scheduled values.

        Raises:
            ValueError: schedules were given group by group, the group lacks a setting, or it was added with a
                learning rate of its own, which one schedule would overwrite. Nothing was changed.
        """
        groups = self.optimizer.param_groups
        if len(groups) == self._group_count:
            return
        for drive in self._drives:
            drive.check(self.optimizer)
            drive.check_new_groups(self.optimizer, self._group_count)
        for group in groups:
            group.setdefault("initial_lr", copy_value(group["lr"]))
        self._set_all_and_attributes()
        self._group_count = len(groups)

    def get_lr(self) -> list[float | Tensor]:
        """Return the learning rates of the next update, one per group."""
        lrs: list[float | Tensor] = [copy_value(group["lr"]) for group in self.optimizer.param_groups]
        for drive in self._drives:
            if drive.setting == "lr":
                values = drive.values(self.optimizer, self.last_epoch)
                lrs = [lr if value is None else value for lr, value in zip(lrs, values)]
        return lrs

    def state_dict(self) -> dict[str, Any]:
        """Return the number of updates made, under torch's name for it."""
        return {"last_epoch": self.last_epoch}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Set the number of updates made, and the values of the next update.

        Args:
            state_dict: a state of :meth:`state_dict`, or of a scheduler of torch, of which ``last_epoch`` is read.

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
        self._step_count = self.last_epoch + 1  # torch's own count, which decides on its warning about call order
        self._set_all_and_attributes()

    @property
    def lr_schedules(self) -> tuple[Schedule | None, ...]:
        """The schedule of each group's learning rate, or of its factor; None where there is none."""
        every = [drive.schedules(self.optimizer) for drive in self._drives if drive.setting == "lr"]
        return every[0] if every else (None,) * len(self.optimizer.param_groups)

    def _set_all(self) -> None:
        for drive in self._drives:
            for group, value in zip(self.optimizer.param_groups, drive.values(self.optimizer, self.last_epoch)):
                if value is not None:
                    _assign(group, drive.setting, value)

    def _set_all_and_attributes(self) -> None:
        """Set the values of the next update, and torch's attributes for them; every group has ``initial_lr``."""
        self._set_all()
        self.base_lrs = [copy_value(group["initial_lr"]) for group in self.optimizer.param_groups]
        self._last_lr = [copy_value(group["lr"]) for group in self.optimizer.param_groups]

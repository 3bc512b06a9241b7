"""One setting of an optimizer's groups and the schedules that drive it: what :class:`gradstep.Scheduler` is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, final

from torch import Tensor
from torch.optim import Optimizer

from gradstep.schedules import Schedule

PerGroup: TypeAlias = Schedule | Sequence[Schedule | None] | Mapping[str, Schedule | None]
"""One schedule for all groups, one for each in their order, or one for each by its ``"name"``; None leaves it alone."""


@final
@dataclass(frozen=True)
class Drive:
    """A setting of an optimizer and what drives it.

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
        return float(group.setdefault(f"initial_{self.setting}", copied(group[self.setting])))


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


def copied(value: float | Tensor) -> float | Tensor:
    """The value, of which nobody else holds the memory."""
    return value.clone() if isinstance(value, Tensor) else value

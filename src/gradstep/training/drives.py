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
    """A setting, whether its schedules are factors of the initial value, and the schedule of each group."""

    setting: str
    relative: bool
    schedules: tuple[Schedule | None, ...]

    def check(self, optimizer: Optimizer) -> None:
        """Refuse a setting that a group does not have."""
        kinds = ("momentum", "betas") if self.setting == "momentum" else (self.setting,)
        for index, (group, schedule) in enumerate(zip(optimizer.param_groups, self.schedules)):
            if schedule is not None and not any(kind in group for kind in kinds):
                raise ValueError(f"{type(optimizer).__name__} has no {' or '.join(kinds)} to drive (group {index})")

    def values(self, optimizer: Optimizer, update: int) -> list[float | None]:
        """The value of every group at an update; None where it is left alone."""
        groups = optimizer.param_groups
        if len(groups) != len(self.schedules):
            raise ValueError(
                f"the optimizer has {len(groups)} parameter groups, but had {len(self.schedules)} when this Scheduler "
                "was made: make a new one and load the old one's state_dict()"
            )
        return [None if s is None else self._unit(group) * s(update) for group, s in zip(groups, self.schedules)]

    def set(self, optimizer: Optimizer, update: int) -> None:
        """Give every group its value of an update."""
        for group, value in zip(optimizer.param_groups, self.values(optimizer, update)):
            if value is not None:
                _assign(group, self.setting, value)

    def mismatches(self, planned: int) -> list[str]:
        """What to say of each schedule that does not end with the run."""
        messages = []
        for schedule in self.schedules:
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


def per_group(name: str, given: PerGroup, optimizer: Optimizer) -> tuple[Schedule | None, ...]:
    """One schedule or None for every parameter group."""
    groups = optimizer.param_groups
    if isinstance(given, Schedule):
        return (given,) * len(groups)
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

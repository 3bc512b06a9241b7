"""Schedules at work: an object that is a torch ``LRScheduler`` and drives any ``torch.optim.Optimizer``."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, final

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler

from gradstep.schedules import Schedule
from gradstep.schedules.checks import count
from gradstep.training.drives import Drive, PerGroup, copied, per_group


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
            group.setdefault("initial_lr", copied(group["lr"]))
        self.base_lrs = [copied(group["initial_lr"]) for group in groups]
        self._set_all()
        self._last_lr = [copied(group["lr"]) for group in groups]
        self._covered = len(groups)

    def get_lr(self) -> list[float | Tensor]:
        """The learning rates of the update that comes next, one per group."""
        lrs: list[float | Tensor] = [copied(group["lr"]) for group in self.optimizer.param_groups]
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
        self.base_lrs = [copied(group["initial_lr"]) for group in self.optimizer.param_groups]
        self._last_lr = [copied(group["lr"]) for group in self.optimizer.param_groups]

    @property
    def lr_schedules(self) -> tuple[Schedule | None, ...]:
        """What drives the learning rate of each group (itself, or its factor); None where nothing does."""
        every = [drive.schedules(self.optimizer) for drive in self._drives if drive.setting == "lr"]
        return every[0] if every else (None,) * len(self.optimizer.param_groups)

    def _set_all(self) -> None:
        for drive in self._drives:
            drive.set(self.optimizer, self.last_epoch)

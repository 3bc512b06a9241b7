"""A cosine schedule of the learning rate by epochs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from gradstep.schedules import Schedule, cosine


@final
@dataclass
class CosineSchedule:
    """The teaching framework's schedule: from ``max_lr`` down to ``min_lr`` along half a cosine.

        lr = min_lr + (max_lr − min_lr) · (1 + cos(π · epoch / total_epochs)) / 2

    The schedules of :mod:`gradstep.schedules` (warmup, restarts, one-cycle and more) serve as well:
    ``optimizer.lr = schedule(update)``.

    Args:
        max_lr: the learning rate at epoch 0; finite, at least ``min_lr``.
        min_lr: the learning rate from ``total_epochs`` on; finite, at least 0.
        total_epochs: a whole number, at least 0.

    Raises:
        ValueError: an argument out of its bounds.
        TypeError: an argument of the wrong kind.

    Example:
        >>> schedule = CosineSchedule(max_lr=0.1, min_lr=0.01, total_epochs=100)
        >>> [round(schedule.get_lr(epoch), 4) for epoch in (0, 25, 50, 100, 200)]
        [0.1, 0.0868, 0.055, 0.01, 0.01]

    Source: Loshchilov and Hutter, "SGDR", arXiv:1608.03983, equation 5, without restarts.
    """

    max_lr: float = 0.1
    min_lr: float = 0.01
    total_epochs: int = 100

    def __post_init__(self) -> None:
        self._schedule()

    def get_lr(self, epoch: int) -> float:
        """Return the learning rate of an ``epoch``, counted from 0.

        Raises:
            ValueError: an epoch before 0.
        """
        return self._schedule()(epoch)

    def _schedule(self) -> Schedule:
        # Not cached: the teaching framework's trainer assigns to the attributes when it loads a checkpoint.
        return cosine(self.max_lr, updates=self.total_epochs, floor=self.min_lr)

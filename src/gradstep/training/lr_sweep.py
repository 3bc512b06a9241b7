"""Run one sweep of the learning rate, and smooth its curve of losses."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gradstep.training.outcome import UpdateOutcome
from gradstep.training.stepper import Stepper

LossFn: TypeAlias = Callable[[nn.Module, Any], "Tensor | tuple[Tensor, float | Tensor]"]
"""Computes the mean loss of a model on a batch; or returns it with the number of items in the mean."""

WIDTH = 1 / 3
"""Standard deviation of the smoothing kernel, in decades of the learning rate."""

FALL = 6.0
"""A fall of the smoothed loss counts if it exceeds the noise left in it by this factor."""

CLIMB = 1.5
"""A loss has exploded when it has climbed by more than this factor times its fall, and by more than ``NOISE``."""

NOISE = 18.0
"""The least climb of an explosion in units of the noise left after smoothing: five standard deviations of a single
loss in a hundred updates of eight decades."""

LAST = 3
"""An explosion shows in most of this many last losses; a single high loss may be a bad batch."""

LEAST = 10
"""Least number of updates for a suggestion."""


@final
@dataclass(frozen=True, eq=False)
class LrSweep:
    """The loss while the learning rate grows geometrically.

    Attributes:
        seed: the seed of the sweep's random numbers and of the order of its data.
        lrs: learning rates of the updates, shape (n,), ascending; of the group with the highest.
        losses: the loss *after* each update, on the micro-batches of the next one, shape (n,).
        stopped: why the sweep ended early; empty if it was completed.
        explosion: the learning rate at which the loss exploded or became non-finite; None if it did not.

    >>> lrs = np.geomspace(1e-5, 1, 101)
    >>> sweep = LrSweep(seed=0, lrs=lrs, losses=2 - np.exp(-np.log10(lrs / 1e-2) ** 2))  # a dip at 0.01
    >>> lrs[sweep.lowest].item(), round(sweep.fall, 2)
    (0.01, 0.9)
    """

    seed: int
    lrs: NDArray[np.float64]
    losses: NDArray[np.float64]
    stopped: str = ""
    explosion: float | None = None

    @cached_property
    def smoothed(self) -> NDArray[np.float64]:
        """The losses, smoothed without lag: shape (n,).

        Each value is the mean of the losses on both sides, weighted by a Gaussian over the logarithm of the learning
        rate, a third of a decade wide; the weights add up to 1 at the ends as well. The usual exponential average uses
        earlier losses only, and moves the curve to higher learning rates: its minimum by a factor of three on the lab's
        tasks.

        Losses are first cut off at as far above the first losses as the lowest loss lies below them: otherwise an
        explosion, which has no bound, would hide the fall.
        """
        means: NDArray[np.float64] = self._kernel() @ self._cut_losses()
        return means

    def _cut_losses(self) -> NDArray[np.float64]:
        """Return the losses with explosions cut off, shape (n,)."""
        cut: NDArray[np.float64] = np.minimum(self.losses, 2 * np.median(self.losses[:LEAST]) - self.losses.min())
        return cut

    def _kernel(self) -> NDArray[np.float64]:
        """Return the smoothing weights, shape (n, n); each row adds up to 1."""
        decades = np.log10(self.lrs)
        weights = np.exp(-0.5 * ((decades[:, None] - decades) / WIDTH) ** 2)
        kernel: NDArray[np.float64] = weights / weights.sum(axis=1, keepdims=True)
        return kernel

    @property
    def lowest(self) -> int:
        """The index in ``lrs`` of the lowest smoothed loss."""
        return int(np.argmin(self.smoothed))

    @property
    def fall(self) -> float:
        """The fall of the smoothed loss from its highest point before the lowest to the lowest."""
        smoothed = self.smoothed[: self.lowest + 1]
        return float(smoothed.max() - smoothed[-1])

    @cached_property
    def noise(self) -> float:
        """Standard deviation of the noise that is left in the smoothed losses.

        The noise of single losses is estimated from the median of their second differences, which neither a slope nor a
        few outliers change. The result is at least the resolution of float32.
        """
        if len(self.losses) < 3:
            return 0.0
        single = np.median(np.abs(np.diff(self._cut_losses(), 2))) / (math.sqrt(6) * 0.6745)
        share = np.sqrt((self._kernel() ** 2).sum(axis=1)).max()
        return float(max(single * share, self._resolution()))

    @property
    def noisy(self) -> bool:
        """Whether the losses scatter by more than the resolution of float32."""
        return self.noise > self._resolution()

    def _resolution(self) -> float:
        return float(np.finfo(np.float32).eps * np.abs(self._cut_losses()).max()) if len(self.losses) else 0.0

    @property
    def exploding(self) -> bool:
        """Whether most of the last losses are far above the lowest, by more than ``CLIMB`` and ``NOISE`` allow."""
        if len(self.lrs) < 2 * LEAST:  # before that, the estimate of the noise is poor
            return False
        climbed = np.median(self.losses[-LAST:]) - self.smoothed.min()
        return bool(climbed > max(CLIMB * self.fall, NOISE * self.noise))


def sweep(
    stepper: Stepper,
    loss_fn: LossFn,
    batches: Iterator[Any],
    lrs: NDArray[np.float64],
    seed: int,
    on_update: Callable[[int, float, float], object],
) -> LrSweep:
    """Make one update with each learning rate, and stop when the loss explodes.

    The stepper's window, schedule, loss scale and count stay unchanged; its model and optimizer do not.

    Args:
        batches: micro-batches without end.
        lrs: learning rates, shape (n,), ascending.
        on_update: called with the number of the update, its learning rate and the loss after it.

    Raises:
        ValueError: no group has a learning rate above 0.
    """
    trial = stepper.rehearsal()
    set_lr = _LrSetter(stepper.optimizers)
    losses: list[float] = []
    for index in range(len(lrs) + 1):  # the extra update gives the loss after the last learning rate
        set_lr(float(lrs[min(index, len(lrs) - 1)]))
        outcome = _make_update(trial, loss_fn, batches)
        if index:
            losses.append(outcome.loss)
            on_update(index - 1, float(lrs[index - 1]), outcome.loss)
        curve = LrSweep(seed, lrs[: len(losses)], np.array(losses))
        if not (outcome.stepped and math.isfinite(outcome.loss)):
            why = outcome.reason or "the loss is not finite"
            if not losses:
                return LrSweep(seed, curve.lrs, curve.losses, f"{why}, before any update")
            at, finite = float(curve.lrs[-1]), len(losses) if math.isfinite(outcome.loss) else len(losses) - 1
            return LrSweep(seed, lrs[:finite], curve.losses[:finite], f"{why} after an update at lr {at:.3g}", at)
        if curve.exploding:
            at = float(curve.lrs[-LAST])
            return LrSweep(seed, curve.lrs, curve.losses, f"the loss exploded at lr {at:.3g}", at)
    return LrSweep(seed, lrs, np.array(losses))


def _make_update(trial: Stepper, loss_fn: LossFn, batches: Iterator[Any]) -> UpdateOutcome:
    """Make one update; in float16, try again until the loss scale has become small enough."""
    while True:
        outcome: UpdateOutcome | None = None
        while outcome is None:
            with trial.autocast():
                loss = loss_fn(trial.model, next(batches))
            outcome = trial.backward(*loss) if isinstance(loss, tuple) else trial.backward(loss)
        if outcome.stepped or outcome.loss_scale <= 1 or not math.isfinite(outcome.loss):
            return outcome


@final
class _LrSetter:
    """Sets the learning rates of all groups and keeps their ratios.

    The ratios are those of the groups' ``initial_lr``, where a schedule has stored it, else of their ``lr``.
    """

    def __init__(self, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        self._groups = [group for optimizer in optimizers for group in optimizer.param_groups]
        rates = [float(group.get("initial_lr", group["lr"])) for group in self._groups]
        if not max(rates) > 0:
            raise ValueError(
                f"the learning rates of the optimizer's groups are {rates}: a sweep multiplies all of them by one "
                "factor, so give at least one group a learning rate above 0"
            )
        self._ratios = [rate / max(rates) for rate in rates]

    def __call__(self, lr: float) -> None:
        for group, ratio in zip(self._groups, self._ratios):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(lr * ratio)
            else:
                group["lr"] = lr * ratio

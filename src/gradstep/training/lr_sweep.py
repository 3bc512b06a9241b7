"""One sweep of the learning rate, and the curve that it leaves."""

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
"""The loss of a model on a batch, a mean; or that and how many items the mean is over."""

WIDTH = 1 / 3
"""Standard deviation of the kernel that smooths, in decades of the learning rate."""

FALL = 6.0
"""A fall counts if it is so many times the noise that smoothing leaves."""

CLIMB = 1.5
"""A loss has exploded when it has climbed so many times as far as it had fallen before, and above ``NOISE``."""

NOISE = 18.0
"""Times the noise, in the same way; five standard deviations of a single loss in a hundred updates of eight decades."""

LAST = 3
"""Losses of which most must be that high; a single one may be a bad batch."""

LEAST = 10
"""Updates before which a curve says nothing."""


@final
@dataclass(frozen=True, eq=False)
class LrSweep:
    """The loss while the learning rate grows geometrically.

    Attributes:
        seed: what the sweep's random numbers, and the order of its data, started from.
        lrs: learning rates of the updates that were made, shape (n,), ascending; of the group with the highest.
        losses: the loss *after* each of these updates, on the micro-batches of the next one, shape (n,).
        stopped: why the sweep ended early; empty if it went through.
        explosion: the learning rate at which the loss had exploded, or ceased to be finite; None if it did not.

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

        Each is the mean of its neighbours on both sides, weighted by a Gaussian over the logarithm of the learning
        rate, a third of a decade wide; the weights add up to 1 at the ends as well. The usual exponential average looks
        back only, and moves the curve to higher learning rates: its minimum by a factor of three on the lab's tasks.

        Before that, losses that are further above the first ones than the lowest is below them are taken to be that
        far: otherwise an explosion, which knows no bounds, would hide the fall beside it.
        """
        means: NDArray[np.float64] = self._kernel() @ self._clip_losses()
        return means

    def _clip_losses(self) -> NDArray[np.float64]:
        bounded: NDArray[np.float64] = np.minimum(self.losses, 2 * np.median(self.losses[:LEAST]) - self.losses.min())
        return bounded

    def _kernel(self) -> NDArray[np.float64]:
        decades = np.log10(self.lrs)
        weights = np.exp(-0.5 * ((decades[:, None] - decades) / WIDTH) ** 2)
        kernel: NDArray[np.float64] = weights / weights.sum(axis=1, keepdims=True)
        return kernel

    @property
    def lowest(self) -> int:
        """Where the smoothed loss is lowest, before an explosion: an index of ``lrs``."""
        return int(np.argmin(self.smoothed))

    @property
    def fall(self) -> float:
        """How far the smoothed loss falls from the highest point on the way to its lowest."""
        smoothed = self.smoothed[: self.lowest + 1]
        return float(smoothed.max() - smoothed[-1])

    @cached_property
    def noise(self) -> float:
        """Standard deviation that the noise of single losses has left in the smoothed ones.

        The noise of single losses is told by the median of their second differences, which neither a slope nor a few
        outliers move. It is never less than what float32 can tell apart.
        """
        if len(self.losses) < 3:
            return 0.0
        bounded = self._clip_losses()
        single = np.median(np.abs(np.diff(bounded, 2))) / (math.sqrt(6) * 0.6745)
        left = np.sqrt((self._kernel() ** 2).sum(axis=1)).max()
        return float(max(single * left, self._resolution()))

    @property
    def noisy(self) -> bool:
        """Whether the losses scatter, and not only by what float32 can tell apart."""
        return self.noise > self._resolution()

    def _resolution(self) -> float:
        return float(np.finfo(np.float32).eps * np.abs(self._clip_losses()).max()) if len(self.losses) else 0.0

    @property
    def exploding(self) -> bool:
        """Whether most of the last losses are far above where they began, and not by noise."""
        if len(self.lrs) < 2 * LEAST:  # nothing is lost by waiting, and the noise is not known well before
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
    """Update once with each learning rate, and stop when the loss explodes.

    Args:
        stepper: how an update is made. Its own window, schedule, loss scale and count stay as they are; model and
            optimizer do not.
        loss_fn: the loss of a micro-batch.
        batches: micro-batches without end.
        lrs: ascending.
        seed: to remember.
        on_update: is told the number of the update, its learning rate and the loss after it.

    Raises:
        ValueError: no group has a learning rate above 0.
    """
    trial = stepper.rehearsal()
    set_lr = _Rates(stepper.optimizers)
    losses: list[float] = []
    for index in range(len(lrs) + 1):  # the last update only tells the loss after the one before
        set_lr(float(lrs[min(index, len(lrs) - 1)]))
        outcome = _update(trial, loss_fn, batches)
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


def _update(trial: Stepper, loss_fn: LossFn, batches: Iterator[Any]) -> UpdateOutcome:
    """One update that was made; in fp16, after as many as the loss scale needs to find its size."""
    while True:
        outcome: UpdateOutcome | None = None
        while outcome is None:
            with trial.autocast():
                loss = loss_fn(trial.model, next(batches))
            outcome = trial.backward(*loss) if isinstance(loss, tuple) else trial.backward(loss)
        if outcome.stepped or outcome.loss_scale <= 1 or not math.isfinite(outcome.loss):
            return outcome


@final
class _Rates:
    """Sets the learning rates of all groups by one factor: what they are to each other stays.

    They are to each other what the groups' ``initial_lr`` say, where a schedule has noted it there, else their ``lr``.
    """

    def __init__(self, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        self._groups = [group for optimizer in optimizers for group in optimizer.param_groups]
        rates = [float(group.get("initial_lr", group["lr"])) for group in self._groups]
        if not max(rates) > 0:
            raise ValueError(
                f"the learning rates of the optimizer's groups are {rates}: a sweep multiplies all of them by one "
                "factor, so give at least one group a learning rate above 0"
            )
        self._shares = [rate / max(rates) for rate in rates]

    def __call__(self, lr: float) -> None:
        for group, share in zip(self._groups, self._shares):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(lr * share)
            else:
                group["lr"] = lr * share

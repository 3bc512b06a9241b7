"""One sweep of the learning rate: run it, smooth its curve of losses, and suggest a learning rate or say why not."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import median_high, median_low
from types import MappingProxyType
from typing import Any, TypeAlias, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gradstep.training.outcome import UpdateOutcome
from gradstep.training.stepper import Stepper

LossFn: TypeAlias = Callable[[nn.Module, Any], "Tensor | tuple[Tensor, float | Tensor]"]
"""Computes the mean loss of a model on a batch; or returns it with the number of items in the mean."""

SMOOTHING_WIDTH = 1 / 3
"""Standard deviation of the smoothing kernel, in decades of the learning rate."""

FALL = 6.0
"""A fall of the smoothed loss counts if it exceeds the noise left in it by this factor."""

CLIMB = 1.5
"""A loss has exploded when it has climbed by more than this factor times its fall, and by more than
``CLIMB_IN_NOISE`` times the noise."""

CLIMB_IN_NOISE = 18.0
"""The least climb of an explosion in units of the noise left after smoothing: five standard deviations of a single
loss in a hundred updates of eight decades."""

LAST = 3
"""An explosion shows in most of this many last losses; a single high loss may be a bad batch."""

LEAST_FOR_SUGGESTION = 10
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
        cut: NDArray[np.float64] = np.minimum(
            self.losses, 2 * np.median(self.losses[:LEAST_FOR_SUGGESTION]) - self.losses.min()
        )
        return cut

    def _kernel(self) -> NDArray[np.float64]:
        """Return the smoothing weights, shape (n, n); each row adds up to 1."""
        decades = np.log10(self.lrs)
        weights = np.exp(-0.5 * ((decades[:, None] - decades) / SMOOTHING_WIDTH) ** 2)
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
        """Whether most of the last losses are above the lowest by more than ``CLIMB`` and ``CLIMB_IN_NOISE`` allow."""
        if len(self.lrs) < 2 * LEAST_FOR_SUGGESTION:  # before that, the estimate of the noise is poor
            return False
        climbed = np.median(self.losses[-LAST:]) - self.smoothed.min()
        return bool(climbed > max(CLIMB * self.fall, CLIMB_IN_NOISE * self.noise))


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


RECOMMENDED = "steepest"
"""The method that trained best in benchmarks/results/lr_find.md."""

AGREEMENT = 10.0
"""Sweeps agree if their suggestions differ by at most this factor."""

END_SLOPE = 0.8
"""The loss is still falling at the end if its slope there is at least this share of the steepest slope.

The slope is taken two thirds of a decade before the end: nearer to it, smoothing uses one side only. With Adafactor on
digits the share is 0.4 to 0.7 at lr 2, and the steepest point, at 0.3, trains best.
"""

UNTRAINED = "raise end=, or look for parameters that are not trained"


def steepest(sweep: LrSweep) -> float:
    """Return the learning rate at the steepest fall of the smoothed loss, before its lowest point.

    The slope is taken over the *logarithm* of the learning rate: over the learning rate itself, slopes at small rates
    are divided by small differences and are always the steepest.
    """
    slopes = np.gradient(sweep.smoothed, np.log(sweep.lrs))
    return float(sweep.lrs[np.argmin(slopes[: sweep.lowest + 1])])


def valley(sweep: LrSweep) -> float:
    """Return the middle, on a logarithmic scale, of the longest decreasing subsequence of the smoothed losses (fastai).

    In a sweep that begins far below any useful rate, most of that subsequence is the long, nearly flat beginning: this
    is the most cautious suggestion.
    """
    losses = sweep.smoothed
    length, begin = [1] * len(losses), list(range(len(losses)))
    for i in range(len(losses)):
        for j in range(i):
            if losses[i] < losses[j] and length[i] <= length[j]:
                length[i], begin[i] = length[j] + 1, begin[j]
    end = int(np.argmax(length))
    return math.sqrt(sweep.lrs[begin[end]] * sweep.lrs[end])


def tenth_of_minimum(sweep: LrSweep) -> float | None:
    """Return a tenth of the learning rate with the lowest smoothed loss; None if that is the end of the sweep."""
    return None if sweep.lowest == len(sweep.lrs) - 1 else float(sweep.lrs[sweep.lowest] / 10)


def tenth_of_explosion(sweep: LrSweep) -> float | None:
    """Return a tenth of the learning rate at which the loss exploded; None if it did not."""
    return None if sweep.explosion is None else sweep.explosion / 10


SUGGESTION_METHODS: Mapping[str, Callable[[LrSweep], float | None]] = MappingProxyType(
    {
        "steepest": steepest,
        "valley": valley,
        "a tenth of the minimum": tenth_of_minimum,
        "a tenth of the explosion": tenth_of_explosion,
    }
)


@final
@dataclass(frozen=True)
class LrSuggestion:
    """The learning rate that one method suggests, over all sweeps.

    Attributes:
        name: one of "steepest", "valley", "a tenth of the minimum", "a tenth of the explosion".
        values: the suggestion of each sweep, without the sweeps that suggest none.

    >>> suggestion = LrSuggestion("steepest", (1e-3, 4e-3, 2e-3))
    >>> suggestion.low, suggestion.lr, suggestion.high
    (0.001, 0.002, 0.004)
    >>> print(suggestion)
    0.002 (0.001 to 0.004)
    """

    name: str
    values: tuple[float, ...]

    @property
    def lr(self) -> float:
        """The median; of an even number, the geometric mean of the middle two."""
        lower, upper = median_low(self.values), median_high(self.values)
        return lower if lower == upper else math.sqrt(lower * upper)

    @property
    def low(self) -> float:
        """The lowest value."""
        return min(self.values)

    @property
    def high(self) -> float:
        """The highest value."""
        return max(self.values)

    def __str__(self) -> str:
        spread = f" ({self.low:.2g} to {self.high:.2g})" if len(self.values) > 1 else ""
        return f"{self.lr:.2g}{spread}"


def suggestions(sweeps: Sequence[LrSweep]) -> dict[str, LrSuggestion]:
    """Return the suggestions of the sweeps by method; a method without a value is left out."""
    usable = [sweep for sweep in sweeps if not sweep_refusal(sweep)]
    results = {name: [method(sweep) for sweep in usable] for name, method in SUGGESTION_METHODS.items()}
    values = {name: tuple(v for v in result if v is not None) for name, result in results.items()}
    return {name: LrSuggestion(name, each) for name, each in values.items() if each}


def sweep_refusal(sweep: LrSweep) -> str:
    """Return why a sweep suggests nothing and what to change; empty if it suggests something."""
    count = len(sweep.lrs)
    if not count and sweep.stopped:
        return f"{sweep.stopped}: no learning rate is the cause; look at the data and at the model's weights"
    if count < LEAST_FOR_SUGGESTION:
        ended = f": {sweep.stopped}; lower start=" if sweep.stopped else "; raise updates="
        return f"there are {count} points, too few (at least {LEAST_FOR_SUGGESTION}){ended}"
    if sweep.fall <= FALL * sweep.noise:
        return _explain_no_fall(sweep)
    if _is_still_falling(sweep):
        return f"the loss is still falling at the end, at lr {sweep.lrs[-1]:.2g}: raise end="
    return ""


def _explain_no_fall(sweep: LrSweep) -> str:
    """Return why the loss does not fall: a start that is too high, noise, or parameters that are not trained."""
    sizes = f"the smoothed loss falls by {sweep.fall:.2g}, and noise alone moves it by {sweep.noise:.2g}"
    first = sweep.smoothed[sweep.lrs <= 10 * sweep.lrs[0]]  # the first decade: a later climb has lower rates before it
    climbs = first.max() - sweep.smoothed.min() > FALL * sweep.noise
    if sweep.explosion is not None and climbs:
        return f"the loss climbs without having fallen ({sizes}): lower start="
    if sweep.noisy and sweep.fall > 0:
        times = max(2, math.ceil((FALL * sweep.noise / sweep.fall) ** 2))
        advice = (
            f"if the loss falls, noise hides it ({sizes}): average over at least {times} times as many examples an "
            "update (the stepper's accumulate=, or larger batches)"
        )
        return advice if sweep.explosion is not None else f"{advice}; if it stays flat, {UNTRAINED}"
    return f"the loss is flat ({sizes}): {UNTRAINED}"


def _is_still_falling(sweep: LrSweep) -> bool:
    """Return whether the steepest slope may lie beyond the end: the slope there is about as steep as anywhere."""
    if sweep.lowest < len(sweep.lrs) - 1:
        return False
    slopes = np.gradient(sweep.smoothed, np.log(sweep.lrs))
    end = int(np.searchsorted(sweep.lrs, sweep.lrs[-1] / 10 ** (2 * SMOOTHING_WIDTH)))
    return bool(np.argmin(slopes) >= end or slopes[end] <= END_SLOPE * slopes.min())


def refusal(sweeps: Sequence[LrSweep]) -> str:
    """Return why all sweeps together recommend nothing; empty if they recommend something."""
    reasons = [reason for sweep in sweeps if (reason := sweep_refusal(sweep))]
    if 2 * len(reasons) >= len(sweeps):
        return reasons[0] if len(sweeps) == 1 else f"{len(reasons)} of {len(sweeps)} sweeps say nothing; {reasons[0]}"
    best = suggestions(sweeps)[RECOMMENDED]
    if best.high > AGREEMENT * best.low:
        return (
            f"the sweeps disagree, from {best.low:.2g} to {best.high:.2g}: there is too much noise; take larger "
            "batches (accumulate=), or more updates="
        )
    return ""

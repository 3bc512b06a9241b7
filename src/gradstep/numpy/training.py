"""Around the step: clip gradients to a largest norm, and a cosine schedule of the learning rate by epochs."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import final

import numpy as np

from gradstep.engines.step import compute_clip_factor, correct_overflow
from gradstep.numpy.base import Floats, HasGradient, array_of
from gradstep.schedules import Schedule, cosine


def clip_grad_norm(parameters: Iterable[HasGradient], max_norm: float = 1.0) -> float:
    """Scale all gradients by one factor, so that their global 2-norm is at most ``max_norm``.

    The norm and the scaling are computed in float64 and without overflow, so that gradients of 1e38 (with squares
    beyond float32) are clipped like any other. A scaled gradient is a new array of the same type; the old array is not
    changed, since other code may use it. If the norm is not finite, all gradients are unchanged: check the returned
    norm before taking the step.

    Args:
        parameters: objects with ``grad``; those without a gradient are ignored.
        max_norm: at least 0; infinite to measure only.

    Returns:
        The norm before clipping; 0 if there is no gradient.

    Raises:
        ValueError: a negative ``max_norm``, or NaN.

    Example:
        >>> from gradstep.numpy import Parameter
        >>> p = Parameter(np.zeros(2), grad=np.array([3e38, 4e38]))
        >>> clip_grad_norm([p], max_norm=1.0)
        5e+38
        >>> p.grad
        array([0.6, 0.8])

    Source: Pascanu, Mikolov and Bengio, "On the difficulty of training recurrent neural networks", arXiv:1211.5063,
    Algorithm 1.
    """
    if not max_norm >= 0:
        raise ValueError(f"max_norm must be at least 0, but is {max_norm}")
    holders = [p for p in parameters if p.grad is not None]
    norm = math.hypot(*(_norm(array_of(p.grad)) for p in holders))
    if not math.isfinite(norm) or norm <= max_norm:
        return norm
    clip = compute_clip_factor(norm, max_norm, margin=0.0)
    for p in holders:
        if isinstance(p.grad, np.ndarray):
            p.grad = _scale(p.grad, clip)
        else:
            p.grad.data = _scale(array_of(p.grad), clip)
    return norm


def _norm(g: Floats) -> float:
    """Return the 2-norm of an array of any shape."""
    flat = g.reshape(-1)

    def sum_squares(divisor: float) -> float:
        scaled = flat if divisor == 1.0 else flat / divisor
        return float(np.einsum("i,i->", scaled, scaled, dtype=np.float64))  # converts to float64 in small pieces

    with np.errstate(over="ignore"):  # squares of float32 cannot overflow float64; squares of float64 can
        norm = math.sqrt(sum_squares(1.0))
    return correct_overflow(norm, lambda: float(np.abs(flat).max(initial=0.0)), sum_squares, least=1e-150)


def _scale(g: Floats, factor: float) -> Floats:
    # In float64: in float32 the factor for a norm of 1e40 would be subnormal and inexact.
    return np.multiply(g, factor, out=np.empty_like(g), dtype=np.float64, casting="same_kind")


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

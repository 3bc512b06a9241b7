"""Losses: mean squared error and cross-entropy."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gradstep.numpy.base import array_of
from gradstep.numpy.tensor import Tensor


class Loss(ABC):
    """The base of all losses: one number from predictions and targets; subclasses write :meth:`forward`.

    >>> class Sum(Loss):
    ...     def forward(self, predictions, targets):
    ...         return (predictions - targets).sum()
    >>> Sum()(Tensor([1.0, 2.0]), [0.0, 0.5]).item()
    2.5
    """

    @abstractmethod
    def forward(self, predictions: Tensor, targets: ArrayLike | Tensor) -> Tensor:
        """Return the loss of ``predictions`` against ``targets``, a tensor of one number."""

    def __call__(self, predictions: Tensor, targets: ArrayLike | Tensor) -> Tensor:
        return self.forward(predictions, targets)


@final
class MSELoss(Loss):
    """The mean of the squared differences over all elements.

    Raises:
        ValueError: predictions and targets have different shapes. Broadcasting (n, 1) against (n,) would compare
            every prediction with every target.

    >>> MSELoss()(Tensor([1.0, 2.0]), [1.0, 4.0]).item()
    2.0
    """

    def forward(self, predictions: Tensor, targets: ArrayLike | Tensor) -> Tensor:
        shape = np.shape(array_of(targets))
        if shape != predictions.shape:
            raise ValueError(f"predictions have shape {predictions.shape} and targets {shape}; they must have the same")
        difference = predictions - targets
        return (difference * difference).mean()


@final
class CrossEntropyLoss(Loss):
    """The mean of −log(probability of the right class), from logits; no exponential overflows.

    Predictions are logits of shape (n, classes); targets are class numbers of shape (n,).

    Raises:
        ValueError: other shapes, or a target is not a whole number from 0 to classes − 1.

    >>> loss = CrossEntropyLoss()
    >>> loss(Tensor([[0.0, 0.0]]), [1]).item()  # log 2
    0.693
    >>> loss(Tensor([[1000.0, 0.0]]), [1]).item()
    1000.0
    """

    def forward(self, predictions: Tensor, targets: ArrayLike | Tensor) -> Tensor:
        if predictions.ndim != 2:
            raise ValueError(f"predictions must be logits of shape (n, classes), but have {predictions.shape}")
        chosen = _check_classes(array_of(targets), *predictions.shape)
        return -predictions.log_softmax()[np.arange(len(chosen)), chosen].mean()


def _check_classes(targets: NDArray[np.generic], n: int, classes: int) -> NDArray[np.int64]:
    """Return the class numbers (n,) as int64, if they are whole numbers from 0 to ``classes`` − 1."""
    if targets.shape != (n,):
        raise ValueError(f"targets must be class numbers of shape ({n},), but have {targets.shape}")
    chosen = targets.astype(np.int64)
    wrong = np.flatnonzero((chosen != targets) | (chosen < 0) | (chosen >= classes))
    if wrong.size:
        raise ValueError(
            f"targets must be whole numbers from 0 to {classes - 1}, but number {wrong[0]} is {targets[wrong[0]]}"
        )
    return chosen

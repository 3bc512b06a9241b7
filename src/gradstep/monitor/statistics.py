"""What a step did to each parameter, in numbers: one interface, whoever collects them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.optim import Optimizer

Floats = NDArray[np.float64]


@final
@dataclass(frozen=True, eq=False)
class Collected:
    """One row for each parameter that had a gradient.

    Attributes:
        index: which parameter, counted over all groups; ascending.
        elements: how many numbers it holds; of complex ones, both parts count.
        grad_square: sum of squares of the gradient as the optimizer was given it, without any loss scale.
        weight_square: of the parameter after the step.
        update_square: of the difference that the step made to what is stored.
        unmoved: elements with a gradient that is not 0 that are stored as before.
        second_min, second_max: smallest and largest second moment (the first slot that is never negative; Adamax's norm
            is squared for it); NaN without one.
        non_finite: elements whose gradient is not finite.
    """

    index: NDArray[np.int32]
    elements: Floats
    grad_square: Floats
    weight_square: Floats
    update_square: Floats
    unmoved: Floats
    second_min: Floats
    second_max: Floats
    non_finite: Floats


class Statistics(ABC):
    """Collects the numbers of single steps: :meth:`before` a step that is wanted, :meth:`collect` after it."""

    @abstractmethod
    def before(self, *, closure: bool) -> None:
        """Get ready for the step that follows.

        Args:
            closure: whether the step computes the gradients itself.
        """

    @abstractmethod
    def collect(self) -> Collected:
        """The numbers of the step that was made."""

    @abstractmethod
    def drop(self) -> None:
        """There was no step after all: forget what was prepared."""


NOT_SQUARED = "exp_inf"
"""Of the slots that are never negative, the one that holds no square: Adamax's."""


def parameters(optimizer: Optimizer) -> list[Tensor]:
    """All parameters, group by group."""
    return [p for group in optimizer.param_groups for p in group["params"]]


def non_finite(optimizer: Optimizer, index: NDArray[np.int32], grad_square: Floats) -> Floats:
    """How many elements of each gradient are not finite; only those are looked at whose sum of squares is not."""
    result = np.zeros(len(index))
    finite = np.isfinite(grad_square)
    if finite.all():
        return result
    suspects, params = np.flatnonzero(~finite), parameters(optimizer)
    for row in suspects:
        g = params[index[row]].grad
        if g is not None:
            result[row] = float((~torch.isfinite(g.to_dense() if g.is_sparse else g)).sum())
    return result

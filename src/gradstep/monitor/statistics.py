"""What a step did to each parameter, in numbers: one interface, whoever collects them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.optim import Optimizer

from gradstep.optimizers.who import Detail

Floats = NDArray[np.float64]


@final
@dataclass(frozen=True, eq=False)
class Collected:
    """One row for each parameter that had a gradient, or for what of each group had.

    Attributes:
        index: which parameter, counted over all groups, or which group; ascending.
        groups: the number of each one's group.
        elements: how many numbers it holds; of complex ones, both parts count.
        table: (n, len(STATISTICS)) what :data:`gradstep.engines.statistics.STATISTICS` says, of the gradient as the
            optimizer was given it, without any loss scale; Adamax's norm is squared.
        bad: elements whose gradient is not finite; None if there is none.
    """

    index: NDArray[np.int64]
    groups: NDArray[np.int64]
    elements: NDArray[np.int64]
    table: Floats
    bad: Floats | None


class Found(NamedTuple):
    """What was found of a step: as little as possible is done right after it, the rest when its record is written.

    Attributes:
        finite: whether all gradients are.
        collected: makes the numbers; it keeps neither the optimizer nor a gradient in memory.
    """

    finite: bool
    collected: Callable[[], Collected]


class Statistics(ABC):
    """Collects the numbers of single steps: :meth:`before` a step that is wanted, :meth:`collect` after it."""

    @abstractmethod
    def before(self, *, closure: bool) -> Detail | None:
        """Get ready for the step that follows.

        Args:
            closure: whether the step computes the gradients itself.

        Returns:
            What a gradstep optimizer shall collect in it.
        """

    @abstractmethod
    def collect(self) -> Found:
        """What the step that was made did."""

    @abstractmethod
    def drop(self) -> None:
        """There was no step after all: forget what was prepared."""


NOT_SQUARED = "exp_inf"
"""Of the slots that are never negative, the one that holds no square: Adamax's."""


def parameters(optimizer: Optimizer) -> list[Tensor]:
    """All parameters, group by group."""
    return [p for group in optimizer.param_groups for p in group["params"]]


def non_finite(grad_square: Floats, whose: Callable[[int], Iterable[Tensor]]) -> Floats:
    """How many elements of the gradients are not finite.

    Args:
        grad_square: (n,) their sums of squares; only where one is not finite is looked at gradients.
        whose: the parameters of a row.
    """
    result = np.zeros(len(grad_square))
    for row in np.flatnonzero(~np.isfinite(grad_square)).tolist():
        gradients = [p.grad for p in whose(row) if p.grad is not None]
        result[row] = sum(int((~torch.isfinite(g.to_dense() if g.is_sparse else g)).sum()) for g in gradients)
    return result

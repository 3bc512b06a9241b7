"""Collect what a step did to each parameter: around any torch optimizer, or inside a gradstep optimizer.

Around a torch optimizer a step whose numbers are wanted costs a copy of the weights until it is over, and about six
passes over memory beside its own. A gradstep optimizer needs neither: it collects in the pass that updates.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.optim import Optimizer

from gradstep.engines.statistics import SUMS, Detail
from gradstep.engines.statistics import Statistics as StepStatistics
from gradstep.optimizers import Optimizer as GradstepOptimizer

Floats = NDArray[np.float64]


@final
@dataclass(frozen=True, eq=False)
class Collected:
    """The statistics of one step: a row for each parameter that had a gradient, or for each group of them.

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
    """The statistics of one step, read right after it and computed when its record is written.

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


SECOND = ("exp_avg_sq", "square_avg", "sum", NOT_SQUARED, "variance", "row_var")
"""What torch's optimizers call their first state that is never negative."""

PIECE = 2**13
"""Elements whose squares are added up in float32: torch adds one by one, and is off by 0.1% after 25 million."""


@final
class TorchStatistics(Statistics):
    """Statistics of any torch optimizer: copies the weights before the step and compares them afterwards.

    A gradient is read after the step, as the step left it: torch's optimizers leave it alone, or unscaled.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        self._old: dict[int, Tensor] = {}

    @torch.no_grad()
    def before(self, *, closure: bool) -> None:
        params = enumerate(parameters(self._optimizer))
        self._old = {i: _real(p).clone() for i, p in params if closure or p.grad is not None}

    @torch.no_grad()
    def collect(self) -> Found:
        params = parameters(self._optimizer)
        found = [(i, params[i], old) for i, old in self._old.items() if params[i].grad is not None]
        self.drop()
        index = np.array([i for i, _, _ in found], dtype=np.int64)
        weights = [_real(p) for _, p, _ in found]
        gradients = [_gradient(p) for _, p, _ in found]
        changes = [_to_float32(new) - _to_float32(old) for new, (_, _, old) in zip(weights, found)]
        second = [self._range_of_second(p) for _, p, _ in found]
        columns = (
            _sums_of_squares(gradients),
            _sums_of_squares(weights),
            _sums_of_squares(changes),
            _fetch([((d == 0) & (g != 0)).sum() for d, g in zip(changes, gradients)]),
            _fetch([low for low, _ in second]),
            _fetch([high for _, high in second]),
        )
        finite = bool(np.isfinite(columns[0]).all())
        bad = None if finite else non_finite(columns[0], lambda row: [params[index[row]]])
        elements = np.array([p.numel() for p in weights], dtype=np.int64)
        sizes = [len(group["params"]) for group in self._optimizer.param_groups]
        groups = np.repeat(np.arange(len(sizes)), sizes)[index]
        collected = Collected(index, groups, elements, np.column_stack(columns), bad)
        return Found(finite, lambda: collected)

    def drop(self) -> None:
        self._old = {}

    def _range_of_second(self, p: Tensor) -> tuple[Tensor, Tensor]:
        state = self._optimizer.state.get(p, {})
        key = next((key for key in SECOND if isinstance(state.get(key), Tensor)), None)
        if key is None or not state[key].numel():
            nan = torch.full((), torch.nan, dtype=torch.float32, device=p.device)
            return nan, nan
        low, high = _real(state[key]).aminmax()
        return (low**2, high**2) if key == NOT_SQUARED else (low, high)


def _real(t: Tensor) -> Tensor:
    t = t.detach()
    return torch.view_as_real(t) if t.is_complex() else t


def _gradient(p: Tensor) -> Tensor:
    assert p.grad is not None
    return _real(p.grad.to_dense() if p.grad.is_sparse else p.grad)


def _to_float32(t: Tensor) -> Tensor:
    return t.float() if t.dtype in {torch.float16, torch.bfloat16} else t


def _sums_of_squares(tensors: Sequence[Tensor]) -> Floats:
    """Return the sum of squares of each tensor, (n,)."""
    if not tensors:
        return np.zeros(0)
    pieces = [_to_float32(t).reshape(-1).split(PIECE) for t in tensors]
    norms = _fetch(torch._foreach_norm([piece for parts in pieces for piece in parts]))
    return np.add.reduceat(np.square(norms), np.cumsum([0, *map(len, pieces[:-1])]))


def _fetch(scalars: Sequence[Tensor]) -> Floats:
    """Copy 0-d tensors from any device to the CPU in one transfer; (n,) float64."""
    if not scalars:
        return np.zeros(0)
    where = scalars[0].device
    result: Floats = torch.stack([one.to(where) for one in scalars]).to("cpu", torch.float64).numpy()
    return result


@final
class FusedStatistics(Statistics):
    """Statistics of a gradstep optimizer: its engine collects them in the pass that updates.

    Args:
        optimizer: is watched.
        detail: what is wanted at least.
    """

    def __init__(self, optimizer: GradstepOptimizer, detail: Detail) -> None:
        self._optimizer, self._detail = optimizer, detail
        slots = optimizer.rule()().slots(ndim=1)
        self._linear = next((slot.name for slot in slots if not slot.signed), "") == NOT_SQUARED

    def before(self, *, closure: bool) -> Detail:
        return self._detail

    def collect(self) -> Found:
        report = self._optimizer.last_step
        assert report is not None
        step = report.statistics
        assert step is not None
        finite = step.finite
        bad = None if finite else self._bad(step)  # while there are gradients
        return Found(finite, partial(_collect_step, step, bad, self._linear))

    def drop(self) -> None:
        pass

    def _bad(self, step: StepStatistics) -> Floats:
        if step.detail == "groups":
            every = [group["params"] for group in self._optimizer.param_groups]
        else:
            every = [[p] for p in parameters(self._optimizer)]
        return non_finite(step.grad_square, lambda row: every[step.index[row]])


def _collect_step(step: StepStatistics, bad: Floats | None, linear: bool) -> Collected:
    table = step.table
    if linear:
        table = table.copy()
        table[:, SUMS:] **= 2
    return Collected(step.index, step.groups, step.elements, table, bad)

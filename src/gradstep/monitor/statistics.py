"""Collect statistics of a step for each parameter: around any torch optimizer, or inside a gradstep optimizer.

Around a torch optimizer, a recorded step needs a copy of the weights while it runs, and about six further passes over
memory. A gradstep optimizer needs neither: it collects in the pass that updates.
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

from gradstep.engines.statistics import SUMS, Detail, Statistics
from gradstep.optimizers import Optimizer as GradstepOptimizer

Floats = NDArray[np.float64]


@final
@dataclass(frozen=True, eq=False)
class StatisticsTable:
    """The statistics of one step: a row for each parameter that had a gradient, or for each group of them.

    Attributes:
        index: (n,) the parameter, counted over all groups, or the group; ascending.
        groups: (n,) the group of each row.
        elements: (n,) the number of elements; real and imaginary parts count separately.
        table: (n, len(STATISTICS)) the columns of :data:`gradstep.engines.statistics.STATISTICS`, for the gradient that
            the optimizer received, without any loss scale; Adamax's norm is squared.
        non_finite: (n,) elements with a gradient that is not finite; None if there is none.
    """

    index: NDArray[np.int64]
    groups: NDArray[np.int64]
    elements: NDArray[np.int64]
    table: Floats
    non_finite: Floats | None


class CollectedStep(NamedTuple):
    """The statistics of one step, read right after it; the table is computed when the record is written.

    Attributes:
        finite: whether all gradients are finite.
        make_table: computes the table; it refers neither to the optimizer nor to a gradient.
    """

    finite: bool
    make_table: Callable[[], StatisticsTable]


class Collector(ABC):
    """Collects the statistics of single steps: call :meth:`before` the step and :meth:`collect` after it."""

    @abstractmethod
    def before(self, *, closure: bool) -> Detail | None:
        """Prepare for the next step.

        Args:
            closure: whether the step computes the gradients itself.

        Returns:
            The detail that a gradstep optimizer has to collect.
        """

    @abstractmethod
    def collect(self) -> CollectedStep:
        """Return the statistics of the step just made."""

    @abstractmethod
    def drop(self) -> None:
        """Discard the preparation, because no step was made."""


NOT_SQUARED = "exp_inf"
"""The slot of Adamax, the only second moment that is not a square."""


def list_parameters(optimizer: Optimizer) -> list[Tensor]:
    """Return all parameters, group by group."""
    return [p for group in optimizer.param_groups for p in group["params"]]


def count_non_finite(grad_square: Floats, parameters: Callable[[int], Iterable[Tensor]]) -> Floats:
    """Count the non-finite elements of the gradients of each row; shape (n,).

    Args:
        grad_square: (n,) the sums of squares of the gradients; only gradients with a non-finite sum are read.
        parameters: returns the parameters of a row.
    """
    counts = np.zeros(len(grad_square))
    for row in np.flatnonzero(~np.isfinite(grad_square)).tolist():
        gradients = [p.grad for p in parameters(row) if p.grad is not None]
        counts[row] = sum(int((~torch.isfinite(g.to_dense() if g.is_sparse else g)).sum()) for g in gradients)
    return counts


SECOND = ("exp_avg_sq", "square_avg", "sum", NOT_SQUARED, "variance", "row_var")
"""The names of the second moment in torch's optimizers."""

PIECE = 2**13
"""Elements per float32 sum of squares: torch adds them one by one, with an error of 0.1% after 25 million."""


@final
class TorchCollector(Collector):
    """Collects from any torch optimizer: copies the weights before the step and compares them afterwards.

    Gradients are read after the step: torch's optimizers do not change them, or only unscale them.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        self._old: dict[int, Tensor] = {}

    @torch.no_grad()
    def before(self, *, closure: bool) -> None:
        params = enumerate(list_parameters(self._optimizer))
        self._old = {i: _view_as_real(p).clone() for i, p in params if closure or p.grad is not None}

    @torch.no_grad()
    def collect(self) -> CollectedStep:
        params = list_parameters(self._optimizer)
        rows = [(i, params[i], old) for i, old in self._old.items() if params[i].grad is not None]
        self.drop()
        index = np.array([i for i, _, _ in rows], dtype=np.int64)
        weights = [_view_as_real(p) for _, p, _ in rows]
        gradients = [_dense_gradient(p) for _, p, _ in rows]
        changes = [_to_float32(new) - _to_float32(old) for new, (_, _, old) in zip(weights, rows)]
        second = [self._range_of_second(p) for _, p, _ in rows]
        columns = (
            _sums_of_squares(gradients),
            _sums_of_squares(weights),
            _sums_of_squares(changes),
            _fetch([((d == 0) & (g != 0)).sum() for d, g in zip(changes, gradients)]),
            _fetch([low for low, _ in second]),
            _fetch([high for _, high in second]),
        )
        finite = bool(np.isfinite(columns[0]).all())
        non_finite = None if finite else count_non_finite(columns[0], lambda row: [params[index[row]]])
        elements = np.array([p.numel() for p in weights], dtype=np.int64)
        sizes = [len(group["params"]) for group in self._optimizer.param_groups]
        groups = np.repeat(np.arange(len(sizes)), sizes)[index]
        table = StatisticsTable(index, groups, elements, np.column_stack(columns), non_finite)
        return CollectedStep(finite, lambda: table)

    def drop(self) -> None:
        self._old = {}

    def _range_of_second(self, p: Tensor) -> tuple[Tensor, Tensor]:
        """Return the smallest and the largest second moment as 0-d tensors; NaN without one."""
        state = self._optimizer.state.get(p, {})
        key = next((key for key in SECOND if isinstance(state.get(key), Tensor)), None)
        if key is None or not state[key].numel():
            nan = torch.full((), torch.nan, dtype=torch.float32, device=p.device)
            return nan, nan
        low, high = _view_as_real(state[key]).aminmax()
        return (low**2, high**2) if key == NOT_SQUARED else (low, high)


def _view_as_real(t: Tensor) -> Tensor:
    """Return a view without gradient; a complex tensor of shape s as real numbers of shape (*s, 2)."""
    t = t.detach()
    return torch.view_as_real(t) if t.is_complex() else t


def _dense_gradient(p: Tensor) -> Tensor:
    """Return the gradient of a parameter that has one, as a dense tensor of real numbers."""
    assert p.grad is not None
    return _view_as_real(p.grad.to_dense() if p.grad.is_sparse else p.grad)


def _to_float32(t: Tensor) -> Tensor:
    """Return 16-bit numbers as float32, in which their squares do not overflow; other types unchanged."""
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
class FusedCollector(Collector):
    """Collects from a gradstep optimizer: its engine collects in the pass that updates.

    Args:
        optimizer: the optimizer to watch.
        detail: the least detail to collect.
    """

    def __init__(self, optimizer: GradstepOptimizer, detail: Detail) -> None:
        self._optimizer, self._detail = optimizer, detail
        slots = optimizer.rule()().slots(ndim=1)
        self._linear = next((slot.name for slot in slots if not slot.signed), "") == NOT_SQUARED

    def before(self, *, closure: bool) -> Detail:
        return self._detail

    def collect(self) -> CollectedStep:
        report = self._optimizer.last_step
        assert report is not None
        step = report.statistics
        assert step is not None
        finite = step.finite
        non_finite = None if finite else self._count_non_finite(step)  # now, since gradients may be cleared later
        return CollectedStep(finite, partial(_make_table, step, non_finite, self._linear))

    def drop(self) -> None:
        pass

    def _count_non_finite(self, step: Statistics) -> Floats:
        if step.detail == "groups":
            params = [group["params"] for group in self._optimizer.param_groups]
        else:
            params = [[p] for p in list_parameters(self._optimizer)]
        return count_non_finite(step.grad_square, lambda row: params[step.index[row]])


def _make_table(step: Statistics, non_finite: Floats | None, linear: bool) -> StatisticsTable:
    """Return the table of a step; ``non_finite`` has the shape (n,), ``linear`` squares Adamax's norm."""
    table = step.table
    if linear:
        table = table.copy()
        table[:, SUMS:] **= 2
    return StatisticsTable(step.index, step.groups, step.elements, table, non_finite)

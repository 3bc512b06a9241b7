"""Collect statistics of a step for each parameter: around any torch optimizer, or inside a gradstep optimizer.

Around a torch optimizer, a recorded step needs a copy of the weights while it runs, and about six further passes over
memory. A gradstep optimizer needs neither: it collects in the pass that updates.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, TypeAlias, final

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from gradstep.engines.statistics import SUMS, BatchStatistics, Detail, Float64s, RowLabels, Statistics, Tally
from gradstep.optimizers import Optimizer as GradstepOptimizer


@final
class CollectedStep:
    """The statistics of one step, read right after it; they refer neither to the optimizer nor to a gradient.

    Args:
        statistics: a row for each parameter that had a gradient, or for each group of them, for the gradient that the
            optimizer received, without any loss scale.
        non_finite: (n,) elements with a gradient that is not finite; None if there is none.
        roots: numbers of the groups whose last two columns are of Adamax's norm, which is not squared.
    """

    def __init__(self, statistics: Statistics, non_finite: Float64s | None, *, roots: Sequence[int] = ()) -> None:
        self.statistics, self.non_finite = statistics, non_finite
        self._roots = roots

    @cached_property
    def table(self) -> Float64s:
        """(n, len(STATISTICS)) the columns of :data:`gradstep.engines.statistics.STATISTICS`; computed when read."""
        table = self.statistics.table
        if self._roots:
            table = table.copy()
            table[np.isin(self.statistics.groups, self._roots), SUMS:] **= 2
        return table


NOT_SQUARED = "exp_inf"
"""The slot of Adamax, the only second moment that is not a square."""


def list_parameters(optimizer: Optimizer) -> list[Tensor]:
    """Return all parameters, group by group."""
    return [p for group in optimizer.param_groups for p in group["params"]]


def count_non_finite(step: Statistics, groups: Sequence[Mapping[str, Any]]) -> Float64s | None:
    """Count the non-finite elements of the gradients of each row, (n,); None if there are none.

    Only gradients with a non-finite sum of squares are read, and now, since they may be cleared later. ``groups`` are
    the optimizer's.
    """
    if step.finite:
        return None
    members = [group["params"] for group in groups]
    if step.detail == "parameters":
        members = [[p] for params in members for p in params]
    counts = np.zeros(len(step.index))
    for row in np.flatnonzero(~np.isfinite(step.grad_square)).tolist():
        gradients = [p.grad for p in members[step.index[row]] if p.grad is not None]
        counts[row] = sum(int((~torch.isfinite(g.to_dense() if g.is_sparse else g)).sum()) for g in gradients)
    return counts


SECOND = ("exp_avg_sq", "square_avg", "sum", NOT_SQUARED, "variance", "row_var")
"""The names of the second moment in torch's optimizers."""

PIECE = 2**13
"""Elements per float32 sum of squares: torch adds them one by one, with an error of 0.1% after 25 million."""


@final
class TorchCollector:
    """Collects from any torch optimizer: copies the weights before the step and compares them afterwards.

    Gradients are read after the step: torch's optimizers do not change them, or only unscale them.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        self._old: dict[int, Tensor] = {}

    @torch.no_grad()
    def before(self, *, closure: bool) -> None:
        """Prepare for the next step; ``closure`` says that the step computes the gradients itself."""
        params = enumerate(list_parameters(self._optimizer))
        self._old = {i: _view_as_real(p).clone() for i, p in params if closure or p.grad is not None}

    @torch.no_grad()
    def collect(self) -> CollectedStep:
        """Return the statistics of the step just made."""
        params = list_parameters(self._optimizer)
        rows = [(i, params[i], old) for i, old in self._old.items() if params[i].grad is not None]
        self.drop()
        index = np.array([i for i, _, _ in rows], dtype=np.int64)
        weights = [_view_as_real(p) for _, p, _ in rows]
        gradients = [_view_as_real(p.grad) for _, p, _ in rows if p.grad is not None]
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
        elements = np.array([p.numel() for p in weights], dtype=np.int64)
        sizes = [len(group["params"]) for group in self._optimizer.param_groups]
        groups = np.repeat(np.arange(len(sizes)), sizes)[index]
        labels = RowLabels.of("parameters", [], index, groups, elements)
        step = Statistics([BatchStatistics(labels, Tally.of(np.column_stack(columns)))], "parameters", clip=1.0)
        return CollectedStep(step, count_non_finite(step, self._optimizer.param_groups))

    def drop(self) -> None:
        """Discard what :meth:`before` has prepared, because no step was made."""
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
    """Return a dense tensor without gradient; a complex one of shape s as real numbers of shape (*s, 2)."""
    t = t.detach()
    t = t.to_dense() if t.is_sparse else t
    return torch.view_as_real(t) if t.is_complex() else t


def _to_float32(t: Tensor) -> Tensor:
    """Return 16-bit numbers as float32, in which their squares do not overflow; other types unchanged."""
    return t.float() if t.dtype in {torch.float16, torch.bfloat16} else t


def _sums_of_squares(tensors: Sequence[Tensor]) -> Float64s:
    """Return the sum of squares of each tensor, (n,)."""
    if not tensors:
        return np.zeros(0)
    pieces = [_to_float32(t).reshape(-1).split(PIECE) for t in tensors]
    norms = _fetch(torch._foreach_norm([piece for parts in pieces for piece in parts]))
    return np.add.reduceat(np.square(norms), np.cumsum([0, *map(len, pieces[:-1])]))


def _fetch(scalars: Sequence[Tensor]) -> Float64s:
    """Copy 0-d tensors from any device to the CPU in one transfer; (n,) float64."""
    if not scalars:
        return np.zeros(0)
    where = scalars[0].device
    result: Float64s = torch.stack([one.to(where) for one in scalars]).to("cpu", torch.float64).numpy()
    return result


@final
class FusedCollector:
    """Collects from a gradstep optimizer, in at least this detail: its engine collects in the pass that updates."""

    def __init__(self, optimizer: GradstepOptimizer, detail: Detail) -> None:
        self._optimizer, self._detail = optimizer, detail

    def before(self, *, closure: bool) -> Detail:
        """Return the detail that the optimizer has to collect."""
        return self._detail

    def collect(self) -> CollectedStep:
        report = self._optimizer.last_step
        assert report is not None
        step = report.statistics
        assert step is not None
        non_finite = count_non_finite(step, self._optimizer.param_groups)
        roots = [i for i, rule in enumerate(report.rules) if NOT_SQUARED in {slot.name for slot in rule.slots(ndim=1)}]
        return CollectedStep(step, non_finite, roots=roots)

    def drop(self) -> None:
        pass


Collector: TypeAlias = TorchCollector | FusedCollector
"""Collects the statistics of single steps: call ``before`` the step and ``collect`` after it."""
